"""How good the static embedder is, and how fast: against its teacher, on this machine's manual pages.

    python -m tests.perf.embedder [TEACHER_FOLDER]

Retrieval: the line of NAME is the query, the page without it (1,500 characters) the answer. Agreement: Spearman's rank
correlation of all cosines within 400 NAME lines with the teacher's. The teacher (torch, transformers) is optional.
"""

from __future__ import annotations

import gzip
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from memory_store.embed import StaticEmbedder

PAGES = 800
TEXT = 1500
Embed = Callable[[Sequence[str]], np.ndarray]


def pages() -> list[tuple[str, str]]:
    """(description of the NAME line, text after it) of some pages, the same ones each time."""
    found: dict[str, str] = {}
    files = sorted(Path("/usr/share/man/man1").glob("*.gz"))
    random.Random(1).shuffle(files)
    for file in files:
        source = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        parts = re.split(r'(?m)^\.S[Hh] +"?([A-Z][A-Z ]*)"?\s*$', source)
        sections = dict(zip(parts[1::2], parts[2::2], strict=False))
        name = plain(sections.get("NAME", "")).partition(" - ")[2]
        body = plain(" ".join(text for title, text in sections.items() if title.strip() != "NAME"))[:TEXT]
        if len(name) > 15 and len(body) > 300 and body not in found.values():
            found.setdefault(name, body)
        if len(found) == PAGES:
            break
    return list(found.items())


def plain(roff: str) -> str:
    text = re.sub(r'(?m)^[.\']\\".*$|^\.[A-Za-z]+ ?', " ", roff.replace("\\-", "-"))
    return " ".join(re.sub(r"\\f.|\\\(..|\\.?", "", text).split())


def retrieval(embed: Embed, found: list[tuple[str, str]]) -> dict[str, float]:
    scores = embed([name for name, _ in found]) @ embed([body for _, body in found]).T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
    return {
        "recall@1": float((ranks < 1).mean()),
        "recall@10": float((ranks < 10).mean()),
        "ndcg@10": float(gains.mean()),
    }


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    upper = np.triu_indices(len(one), 1)
    ranks = [np.argsort(np.argsort((rows @ rows.T)[upper])).astype(float) for rows in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def teacher(folder: str) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), 32):
                batch = tokenizer(
                    list(texts[start : start + 32]), padding=True, truncation=True, max_length=256, return_tensors="pt"
                )
                mask = batch["attention_mask"].unsqueeze(-1)
                rows.append(((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        found = np.concatenate(rows)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return embed


def microseconds(embed: Embed, texts: list[str], batch: int) -> float:
    best = []
    for _ in range(5):
        started = time.perf_counter()
        for start in range(0, len(texts), batch):
            embed(texts[start : start + batch])
        best.append((time.perf_counter() - started) / len(texts) * 1e6)
    return sorted(best)[2]


if __name__ == "__main__":
    static, found = StaticEmbedder(), pages()
    names = [name for name, _ in found]
    static.embed(names)
    print(f"{len(found)} pages; us per NAME line: alone {microseconds(static.embed, names, 1):.0f}, in 256 "
          f"{microseconds(static.embed, names, 256):.0f}")  # fmt: skip
    print("static ", retrieval(static.embed, found))
    if len(sys.argv) > 1:
        taught = teacher(sys.argv[1])
        print("teacher", retrieval(taught, found))
        print("rank correlation of cosines", spearman(static.embed(names[:400]), taught(names[:400])))
