"""Our scorer and lm-evaluation-harness say the same of every item: one likelihood task, one generation task.

Runs where the harness is installed, here or under the interpreter that LOCALAI_LM_EVAL_PYTHON names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from localai.bench import generate
from localai.bench.asking import Asker
from localai.bench.configurations import Configuration
from localai.bench.facts import choice
from localai.bench.tasks import Item
from tests.daemon_fixture import Daemon

PYTHON = os.environ.get("LOCALAI_LM_EVAL_PYTHON") or (sys.executable if importlib.util.find_spec("lm_eval") else "")
COUNT = 200
LEVELS = (0, 1, 2, 3)


def items(kind: str) -> list[Item]:
    if kind == "text":
        return generate.made("arithmetic", generate.arithmetic, COUNT, 7, levels=LEVELS, shots=5, max_tokens=24)
    # There are fewer facts than that: the second hundred has other wrong endings.
    drawn = [*choice(COUNT // 2, 7), *choice(COUNT // 2, 8)]
    return [msgspec.structs.replace(item, id=f"choice-{n}") for n, item in enumerate(drawn)]


@pytest.mark.skipif(not PYTHON, reason="lm-evaluation-harness is not installed (set LOCALAI_LM_EVAL_PYTHON)")
@pytest.mark.timeout(1800)
def test_every_verdict_is_the_same(daemon: Daemon, tmp_path: Path) -> None:
    asked = {kind: items(kind) for kind in ("choice", "text")}
    for kind, drawn in asked.items():
        (tmp_path / f"{kind}.jsonl").write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in drawn))
    command = [PYTHON, str(Path(__file__).with_name("lm_eval_run.py")), daemon.url, str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads((tmp_path / "verdicts.json").read_text())

    config = Configuration(model="starter", quant="Q4_1", backend="llama.cpp")
    asker = Asker(daemon.client, "agreement", {config.key: "starter"})
    ours = {kind: [asker.ask(item, config, 0) for item in drawn] for kind, drawn in asked.items()}
    for kind, rows in ours.items():
        assert len(theirs[kind]) == COUNT
        assert [row.item for row in rows if row.correct != bool(theirs[kind][row.item])] == []
        assert 0 < sum(row.correct for row in rows) < COUNT
    by_length = theirs["choice_by_length"]
    assert [row.item for row in ours["choice"] if row.likelihood_by_length != bool(by_length[row.item])] == []
