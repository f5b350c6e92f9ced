"""`localai ask` and `localai chat`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from localai.cli import answer_text, progress_line, say, show
from localai.cli_numbers import Finite
from localai.client import Client
from localai.config import load
from localai.errors import BadRequest
from localai.lifecycle import client, ensure_running
from localai.sanitize import one_line

_LARGEST_FILE = 2 * 2**20
_USAGE = ("prompt_tokens", "prompt_tokens_details", "completion_tokens", "energy")
_TIMINGS = ("queue_ms", "load_ms", "restore_ms", "ttft_ms", "prefill_tps", "decode_tps", "total_ms")


@click.command()
@click.argument("prompt", required=False)
@click.option("-m", "--model", default="", help="Model id, alias, hf:owner/repo[:quant] or GGUF file [+ADAPTER...].")
@click.option("-B", "--backend", default=None, help="Engine to use instead of the chosen one.")
@click.option("--policy", default=None, help="How to choose the engine: balanced, fastest or frugal.")
@click.option("-s", "--system", default=None, help="System prompt; '' leaves it to the model's template.")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), help="Add a text file to the prompt.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Longest answer, in tokens.")
@click.option("--temperature", type=Finite(), default=None, help="0 is greedy; typical values are 0 to 2.")
@click.option("--seed", type=int, default=None, help="Repeatable sampling.")
@click.option("--ctx", type=click.IntRange(0), default=None, help="Served context in tokens.")
@click.option("--max-joules", type=Finite(0, min_open=True), default=None, help="End the answer there.")
@click.option("--memory/--no-memory", default=None, help="Recall what fits from the memory. Default: recall.")
@click.option("-n", "--namespace", default=None, help="Recall from this namespace.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and its figures.")
def ask(
    prompt: str | None,
    model: str,
    backend: str | None,
    policy: str | None,
    system: str | None,
    files: tuple[Path, ...],
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    ctx: int | None,
    max_joules: float | None,
    memory: bool | None,
    namespace: str | None,
    no_stream: bool,
    as_json: bool,
) -> None:
    """Ask one question and print the answer.

    What is piped in is added to PROMPT; with no PROMPT it is the question.
    """
    text = _question(prompt, files)
    config = load()
    if ensure_running(config):
        say(f"started the daemon ({config.socket})")
    system = config.system if system is None else system
    messages = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {
        "model": model_name(model),
        "messages": [*messages, {"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "priority": "interactive",
        "backend": backend,
        "policy": policy,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "num_ctx": ctx,
        "max_joules": max_joules,
        "memory": (namespace or config.memory or bool(memory)) if memory is not False else None,
    }
    sent = {key: value for key, value in body.items() if value is not None}
    answer = _Answer(echo=not (no_stream or as_json))
    _run(client(config), sent, answer)
    if as_json:
        click.echo(json.dumps(answer.as_json(), ensure_ascii=False))
        return
    if no_stream:
        answer_text(answer.text)
    answer.remark()


def _question(prompt: str | None, files: tuple[Path, ...]) -> str:
    parts = [prompt] if prompt else []
    parts += [f"File {path.name}:\n```\n{_read(path)}\n```" for path in files]
    # A process that was started without a standard input has None there.
    if sys.stdin is not None and not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
        parts += [piped] if piped else []
    if not parts:
        raise BadRequest("there is no question", 'localai ask "What is the capital of France?"')
    return "\n\n".join(parts)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadRequest(f"{path} is larger than {_LARGEST_FILE // 2**20} MiB", "send a part of it")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not a text file", "send text in UTF-8") from error


def model_name(name: str) -> str:
    """Files and folders are named by their absolute paths, because the daemon runs in another folder."""
    path = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and path.is_dir():
        return str(path.absolute())
    if Path(name).exists():
        return str(Path(name).absolute()) if name.endswith(".gguf") else name
    return "+".join(_absolute(part) for part in name.split("+"))


def _absolute(part: str) -> str:
    name, mark, scale = part.partition("@")
    path = Path(name)
    return f"{path.absolute()}{mark}{scale}" if name.endswith(".gguf") and path.exists() else part


class _Answer:
    """Gathers the stream's chunks; with `echo`, prints the text as it comes."""

    def __init__(self, *, echo: bool) -> None:
        self._echo = echo
        self._texts: list[str] = []
        self._last: dict[str, Any] = {}
        self._finish: str | None = None
        self._model = ""

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def take(self, chunk: dict[str, Any]) -> None:
        self._model = chunk.get("model", self._model)
        for choice in chunk["choices"]:
            content = choice["delta"].get("content")
            if content:
                self._texts.append(content)
                if self._echo:
                    answer_text(content, end="")
            self._finish = choice["finish_reason"] or self._finish
        if chunk.get("usage"):
            self._last = chunk

    def end(self) -> None:
        if self._echo:
            click.echo()

    def remark(self) -> None:
        """What a person should know beside the text: why it ends there, and which memories it rests on."""
        stopped = ((self._last.get("usage") or {}).get("energy") or {}).get("stopped")
        stopped = stopped or (self._last.get("timings") or {}).get("stopped")
        if stopped:
            say(f"({stopped})")
        elif "answer_cache" in self._last:
            say(f"({self._last['reason']})")
        elif self._finish == "length":
            say("(cut at the token limit)")
        for used in self._last.get("memories") or []:
            say(f"  {used['id']}  {used['source']}  trust {used['trust']:.2f}")
        if self._last.get("memory_fallback"):
            say(f"(memories were found by {self._last['memory_fallback']})")

    def as_json(self) -> dict[str, Any]:
        usage, timings = self._last.get("usage") or {}, self._last.get("timings") or {}
        shown = {name: timings.get(name) for name in _TIMINGS}
        shown |= {"stopped": timings["stopped"]} if timings.get("stopped") else {}
        return {
            "text": self.text,
            "model": self._model,
            "backend": self._last.get("backend"),
            "reason": self._last.get("reason"),
            "finish_reason": self._finish,
            "usage": {name: usage.get(name) for name in _USAGE},
            "timings": {**shown, "cached": {"live": 0, "ram": 0, "ssd": 0, **(timings.get("cached") or {})}}
            | ({"paging": timings["paging"]} if timings.get("paging") else {}),
            "memories": self._last.get("memories") or [],
            **{name: self._last[name] for name in ("memory_fallback", "answer_cache") if name in self._last},
        }


def _run(daemon: Client, body: dict[str, Any], answer: _Answer) -> None:
    waiting = False
    with daemon.stream("/v1/chat/completions", body) as events:
        for event in events:
            if event.comment is not None:
                waiting = True
                progress_line(event.comment)
                continue
            if waiting:
                progress_line("")
                waiting = False
            if event.data is not None:
                answer.take(event.data)
    answer.end()


@click.command()
@click.option("-m", "--model", default=None, help="Model for new conversations.")
@click.option("-c", "--conversation", default=None, help="Open this conversation.")
@click.option("--plain", is_flag=True, help="Lines of text only: for screen readers, pipes and simple terminals.")
@click.option("--list", "listing", is_flag=True, help="List earlier conversations with their ids, and leave.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object.")
def chat(model: str | None, conversation: str | None, plain: bool, listing: bool, as_json: bool) -> None:
    """Open the terminal chat."""
    if as_json and not listing:
        raise click.UsageError("--json goes with --list; `localai ask --json` answers in JSON")
    config = load()
    ensure_running(config)
    if listing:
        show(client(config).get("/localai/conversations?limit=200"), as_json, _conversations)
        return
    named = None if model is None else model_name(model)
    if plain:
        from tui.plain import run_plain

        run_plain(client(config), sys.stdin, sys.stdout, conversation, named)
        return
    from tui.app import run

    last = run(client(config), conversation, named, config.home)
    if last is not None:
        say(f"`localai chat -c {last}` goes on with this conversation")


def _conversations(body: dict[str, Any]) -> str:
    rows = [
        f"{chat['id']}  {datetime.fromtimestamp(chat['updated']):%Y-%m-%d %H:%M}  "
        f"{'* ' if chat['pinned'] else '  '}{one_line(chat['title']) or 'Untitled'}"
        for chat in body["conversations"]
    ]
    return "\n".join(rows) or "no conversations yet: `localai chat` begins one"
