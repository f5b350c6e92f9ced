"""Runs two tasks with lm-evaluation-harness, by the interpreter that has it, and writes what it says of every item.

Called as `python lm_eval_run.py URL FOLDER`: FOLDER holds `choice.jsonl` and `text.jsonl`, and gets `verdicts.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
import requests
from lm_eval.models.gguf import GGUFLM


class OwnServer(GGUFLM):  # type: ignore[misc]
    """The harness' client for llama.cpp servers, with a limit of tokens and the backend that is asked for."""

    def gguf_completion(self, context: str, continuation: str = "", stop: Any = None, **_: Any) -> Any:
        body = {"prompt": context + (continuation or ""), "logprobs": self.logprobs, "temperature": 0.0, "seed": 0}
        # The harness drops the last token, which it takes to be a new one: so there must be one.
        body |= {"max_tokens": 1, "echo": True, "ignore_eos": True} if continuation else {"max_tokens": 24}
        body |= {"stop": stop} if stop else {}
        answer = requests.post(f"{self.base_url}/v1/completions", json={**body, "backend": "llama.cpp"}, timeout=600)
        answer.raise_for_status()
        return answer.json()


def task(name: str, folder: Path, **special: Any) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
        **special,
    }


def main(url: str, folder: Path) -> None:
    tasks = [
        task(
            "choice",
            folder,
            output_type="multiple_choice",
            doc_to_choice="{{choices}}",
            doc_to_target="{{gold}}",
            metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
        ),
        task(
            "text",
            folder,
            output_type="generate_until",
            doc_to_target="{{answers[0]}}",
            generation_kwargs={"until": ["\n"]},
            metric_list=[{"metric": "exact_match"}],
        ),
    ]
    found = lm_eval.simple_evaluate(OwnServer(base_url=url), tasks=tasks, bootstrap_iters=0, log_samples=True)
    verdicts = {
        name: {sample["doc"]["id"]: sample.get("acc", sample.get("exact_match")) for sample in samples}
        for name, samples in found["samples"].items()
    }
    verdicts["choice_by_length"] = {s["doc"]["id"]: s["acc_norm"] for s in found["samples"]["choice"]}
    (folder / "verdicts.json").write_text(json.dumps({"version": lm_eval.__version__, **verdicts}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
