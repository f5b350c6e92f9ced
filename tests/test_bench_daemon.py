"""`localai bench` and `localai models quantize` as a person types them, with the starter and a daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from localai.bench import journal, png
from tests.daemon_fixture import Daemon

ONE = ("bench", "-B", "llama.cpp", "--limit", "1", "--rounds", "1", "-m")


def told(daemon: Daemon, *arguments: str) -> Any:
    done = daemon.cli(*arguments, "--json", timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
def test_a_run_answers_through_the_daemon(fresh: Daemon, shallow: Path, tmp_path: Path) -> None:
    told(fresh, "models", "import", str(shallow), "--link")
    one = (*ONE, "shallow")
    found = told(fresh, *one, "--out", str(tmp_path))
    result = found["results"][0]
    assert (result["questions"], result["coverage"], result["rank"]) == (7, 1.0, 1)
    assert result["joules"]["value"] > 0
    assert result["quality"] in ("measured", "measured_partial", "modelled")
    assert {row["app"] for row in fresh.client.get("/localai/queries")["queries"]} == {"bench"}
    # Nothing of an earlier run helps: only examples that questions of one block share are found in the cache.
    again = told(fresh, *one)
    assert again["results"][0]["cached_tokens"] == result["cached_tokens"] == 0
    # Nor does what was asked before an interruption, and is asked again.
    newest = max(journal.folder(fresh.home).glob("*.jsonl"))
    lines = newest.read_bytes().splitlines(keepends=True)
    newest.write_bytes(
        b"".join(line for line in lines if b'"type":"block"' not in line and b'"type":"end"' not in line)
    )
    assert told(fresh, *one)["results"][0]["cached_tokens"] == 0
    assert b'"type":"resumed"' in newest.read_bytes()
    kinds = {"json", "csv", "svg", "html"} | ({"png"} if png.available() else set())
    assert {path.name for path in tmp_path.iterdir()} == {f"report.{kind}" for kind in kinds}
    compared = told(fresh, "bench", "compare", str(tmp_path), str(tmp_path / "report.json"))
    assert compared["reservations"] == []
    texts = b"".join(path.read_bytes() for path in journal.folder(fresh.home).glob("*.jsonl"))
    assert b"Question" not in texts


def test_a_file_that_was_never_imported_is_measured(fresh: Daemon, shallow: Path, tmp_path: Path) -> None:
    task = tmp_path / "one.jsonl"
    task.write_text((json.dumps({"question": "What is 2 + 3?", "answer": "It is 5.\n#### 5"}) + "\n") * 6)
    found = told(fresh, *ONE, str(shallow), "--task", f"gsm8k={task}")
    result = found["results"][0]
    assert (result["questions"], result["coverage"]) == (1, 1.0)
    assert str(shallow.parent) not in json.dumps(found), "a report names no folder of this machine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bench", "-m", "nonesuch"), 1, "no model named 'nonesuch'"),
        (("bench", "-m", "starter", "--quant", "Q8_0"), 1, "`localai models quantize starter Q8_0` makes it"),
        (("bench", "-B", "cuda"), 2, "no backend named 'cuda'"),
        (("bench", "--suite", "fast"), 2, "no suite named 'fast'"),
        (("bench", "--task", "gsm8k=missing.jsonl"), 2, "missing.jsonl cannot be read"),
        (("models", "quantize", "starter", "Q9_9"), 2, "no quantisation named 'Q9_9'"),
        (("models", "quantize", "starter", "Q4_1"), 1, "exists"),
    ],
)
def test_what_cannot_run_says_so(daemon: Daemon, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = daemon.cli(*arguments)
    assert (done.returncode, message in done.stderr, "hint:" in done.stderr) == (code, True, True), done.stderr


@pytest.mark.timeout(900)
def test_a_sibling_in_another_quantisation(fresh: Daemon) -> None:
    made = told(fresh, "models", "quantize", "starter", "q8_0")
    assert (made["quant"], len(made["digest"]), made["problem"]) == ("Q8_0", 64, None)
    assert "Q4_1 already" in made["warnings"][0]
    listed = {model["id"]: model["quant"] for model in told(fresh, "models", "list")["models"]}
    assert listed[made["id"]] == "Q8_0"
    # The plain name goes on meaning the model as it came.
    assert told(fresh, "models", "show", "starter:Q8_0")["local"]["id"] == made["id"]
    small = told(fresh, "models", "quantize", "starter", "Q2_K")
    assert "do not divide into the 256-value blocks" in small["warnings"][1]
    assert "Q4_1 already" in small["warnings"][0]
