"""`localai memory ask`, `feedback`, `pin`: one question over many documents, and which memories were worth it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import click

from localai.cli import answer_text, progress_line, say, show
from localai.cli_ask import model_name
from localai.cli_memory import ROUTE, daemon_and_namespace, memory, memory_line, path_of
from localai.cli_memory_doctor import doctor
from localai.cli_memory_files import export, import_
from localai.cli_numbers import Finite
from localai.errors import BadRequest

memory.add_command(doctor)
memory.add_command(export)
memory.add_command(import_)


@memory.command()
@click.argument("query", required=False)
@click.option("--kept", multiple=True, help="Id of a hit that was worth it; as often as you like.")
@click.option("--shown", multiple=True, help="Ids of the hits that were seen, where not all of them were.")
@click.option("--how", type=click.Choice(["kept", "cited", "pinned"]), default="kept", show_default=True)
@click.option("-k", default=10, show_default=True, help="Most hits that QUERY showed.")
@click.option("-n", "--namespace", default=None, help="In this namespace.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def feedback(
    query: str | None,
    kept: tuple[str, ...],
    shown: tuple[str, ...],
    how: str,
    k: int,
    namespace: str | None,
    as_json: bool,
) -> None:
    """Say which hits of QUERY were kept; ranking learns from it. Without QUERY, tell what was learned."""
    daemon, usual = daemon_and_namespace()
    if query is None:
        show(daemon.get(f"{ROUTE}/feedback"), as_json, _state_text)
        return
    if not kept:
        raise BadRequest("it is not said which hits were kept", "give their ids with --kept")
    body: dict[str, Any] = {"query": query, "kept": kept, "how": how, "k": k, "namespace": namespace or usual}
    done = daemon.post(f"{ROUTE}/feedback", body | ({"shown": shown} if shown else {}), timeout=60.0)
    show(done, as_json, lambda d: f"noted: {d['kept']} of {d['shown']} hits; {d['events']} events")


@memory.command()
@click.argument("memory_id", required=False)
@click.option("-n", "--namespace", default=None, help="List those of this namespace.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pin(memory_id: str | None, namespace: str | None, as_json: bool) -> None:
    """Give a memory to every answer, whatever is asked. Without MEMORY_ID, list what is pinned."""
    daemon, _ = daemon_and_namespace()
    if memory_id is None:
        found = daemon.get(f"{ROUTE}/pins" + (f"?{urlencode({'namespace': namespace})}" if namespace else ""))
        show(found, as_json, lambda f: "\n".join(map(memory_line, f["memories"])) or "nothing is pinned")
        return
    done = daemon.post(f"{path_of(memory_id)}/pin", {"pinned": True})
    show(done, as_json, lambda _: "pinned: every answer is given it")


@memory.command()
@click.argument("memory_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def unpin(memory_id: str, as_json: bool) -> None:
    """Give a memory to answers only where it fits the question. It stays remembered."""
    daemon, _ = daemon_and_namespace()
    done = daemon.post(f"{path_of(memory_id)}/pin", {"pinned": False})
    show(done, as_json, lambda _: "no longer pinned")


def _state_text(found: Any) -> str:
    report = found["report"]
    if report is None:
        return f"{found['events']} events; nothing is learned yet"
    use = "in use" if found["used"] else "not in use, because it is not proved better"
    figures = f"nDCG@5 {report['before']:.3f} without, {report['after']:.3f} with, on events it had not seen"
    return f"{found['events']} events; a learned ranking is {use} ({figures})"


@memory.command()
@click.argument("query")
@click.option("-m", "--model", default="", help="Model id, alias or GGUF file.")
@click.option("-n", "--namespace", default=None, help="In this namespace.")
@click.option("--passages", type=click.IntRange(1, 1000), default=40, show_default=True, help="Most memories to read.")
@click.option("--max-joules", type=Finite(0, min_open=True), default=None, help="Answer before this is spent.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Longest answer, in tokens. Default: 512.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ask(
    query: str,
    model: str,
    namespace: str | None,
    passages: int,
    max_joules: float | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Read all that fits QUERY, batch by batch, and answer from what was found."""
    daemon, usual = daemon_and_namespace()
    body: dict[str, Any] = {"query": query, "model": model_name(model), "memory": namespace or usual, "stream": True}
    body |= {"passages": passages, "max_joules": max_joules, "max_tokens": max_tokens}
    text, finish = "", None
    told: dict[str, Any] = {}
    last: dict[str, Any] = {}
    with daemon.stream(f"{ROUTE}/ask", {name: value for name, value in body.items() if value is not None}) as events:
        for event in events:
            if event.data is None:
                progress_line(event.comment or "")
            elif event.data.get("type") == "ask":
                told = event.data
            else:
                for choice in event.data["choices"]:
                    piece = choice["delta"].get("content") or ""
                    if piece and not as_json:
                        # The line of progress is on the same terminal, and goes before the answer begins.
                        if not text:
                            progress_line("")
                        answer_text(piece, end="")
                    text += piece
                    finish = choice.get("finish_reason") or finish
                last = event.data if event.data.get("usage") else last
    progress_line("")
    _print_answer(text, told, last, finish, as_json)


def _print_answer(text: str, told: Any, last: Any, finish: str | None, as_json: bool) -> None:
    shown = {name: last.get(name) for name in ("model", "backend", "reason", "usage", "timings", "memories")}
    shown |= {"memory_fallback": last["memory_fallback"]} if "memory_fallback" in last else {}
    if as_json:
        asked = {name: value for name, value in told.items() if name != "type"}
        answer = {"text": text, "finish_reason": finish, **shown, "ask": asked}
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    click.echo()
    joules = "" if told.get("joules") is None else f" for {told['joules']:.3g} J"
    say(f"({told.get('read', 0)} of {told.get('batches', 0)} batches read{joules})")
    if told.get("stopped"):
        say(f"({told['stopped']})")
    elif finish == "length":
        say("(cut at the token limit)")
    if "memory_fallback" in shown:
        say(f"(memories were found by {shown['memory_fallback']})")
    for used in shown["memories"] or []:
        say(f"  {used['id']}  {used['source']}")
