"""`localai memory feedback`: say which of the memories that were found were worth it."""

from __future__ import annotations

from typing import Any

import click

from localai.cli import show
from localai.cli_memory import ROUTE, daemon_and_namespace, memory
from localai.errors import BadRequest


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


def _state_text(found: Any) -> str:
    report = found["report"]
    if report is None:
        return f"{found['events']} events; nothing is learned yet"
    use = "in use" if found["used"] else "not in use, because it is not proved better"
    figures = f"nDCG@5 {report['before']:.3f} without, {report['after']:.3f} with, on events it had not seen"
    return f"{found['events']} events; a learned ranking is {use} ({figures})"
