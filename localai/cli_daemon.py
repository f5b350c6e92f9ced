"""`localai serve | start | stop | status | logs | install | uninstall`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from localai.cli import say, show
from localai.config import Config, load
from localai.lifecycle import client, ensure_running
from localai.lifecycle import stop as stop_daemon

_OPTIONS = (
    click.option("--host", default=None, help="Address of the TCP listener."),
    click.option("--port", type=int, default=None, help="TCP port; 0 for the Unix socket only."),
    click.option("--ram", default=None, help="Memory that all engines may take, as 4G."),
    click.option("--vram", default=None, help="GPU memory that an engine may take, as 8G."),
    click.option("--paging", default=None, help="auto: page models larger than memory from disk; off: refuse them."),
    click.option("--ctx", type=int, default=None, help="Served context in tokens."),
    click.option("--threads", type=int, default=None, help="Most threads of an engine."),
    click.option("--keep-alive", default=None, help="Seconds that an idle model stays loaded, or auto."),
    click.option("--backend", default=None, help="Engine of requests that name none, or auto."),
    click.option("--policy", default=None, help="How auto chooses: balanced, fastest or frugal."),
    click.option("--speculation", default=None, help="Who guesses tokens ahead: auto, lookup, draft or off."),
    click.option("--draft", default=None, help="Small model that guesses tokens for the default model."),
    click.option("--default-model", default=None, help="Model of a request that names none."),
)


def _settings(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_settings
@click.option("--quiet", is_flag=True, help="Log to the file only.")
def serve(quiet: bool, **flags: Any) -> None:
    """Run the daemon in the foreground."""
    config = load(flags)
    # What it takes a second to import, after what a person may have mistyped.
    from localai.daemon import serve as run

    if not quiet:
        say(f"serving on {_places(config)}")
    run(config, foreground=not quiet)


@click.command()
@_settings
def start(**flags: Any) -> None:
    """Start the daemon in the background."""
    config = load(flags)
    given = {name: value for name, value in flags.items() if value is not None}
    begun = ensure_running(config, given)
    say(f"{'started' if begun else 'already running'} on {_places(config)}")


def _places(config: Config) -> str:
    return f"{config.socket}" + (f" and http://{config.host}:{config.port}" if config.port else "")


@click.command()
def stop() -> None:
    """Stop the daemon after running requests."""
    say("stopped" if stop_daemon(load()) else "no daemon was running")


@click.command()
@click.option("--json", "as_json", is_flag=True)
def status(as_json: bool) -> None:
    """Show what the daemon is doing."""
    show(client(load()).get("/localai/status"), as_json, _status_text)


def _status_text(report: Any) -> str:
    day = report["last_day"]
    lines = [
        f"localai {report['version']}, process {report['pid']}, up {_duration(report['uptime_s'])}",
        f"  socket  {report['socket']}",
        f"  http    {report['url'] or 'off'}",
        f"  memory  {_memory_text(report['memory'])}",
        f"  24 h    {day['queries']} queries, {day['prompt_tokens']} prompt tokens "
        f"({day['cached_tokens']} from the cache), {day['completion_tokens']} answer tokens, {day['errors']} errors",
    ]
    for engine in report["engines"]:
        way = engine["backend"] + (f":{engine['mode']}" if engine["mode"] else "")
        lines.append(f"  {engine['model']} on {way}: {_engine_text(engine)}")
        lines += [f"    {_weights_text(engine['weights'])}"] if engine.get("weights") else []
        lines += [f"    {kept_text(engine)}"] if engine.get("kept") else []
        lines += [f"    {note}" for note in engine.get("notes", [])]
        lines += [f"    {_paging_text(engine['paging'])}"] if engine.get("paging") else []
        lines += [f"    {_guesses_text(engine['speculation'])}"] if engine.get("speculation") else []
    if not report["engines"]:
        lines.append("  no model is loaded")
    lines += [f"  {ahead_text(ahead)}" for ahead in report["ahead"]]
    lines += [f"  upstream {upstream_text(upstream)}" for upstream in report["upstreams"]]
    for model, phases in report["best"].items():
        won = ", ".join(f"{phase} {w['backend']} ({w['tps']:.0f} token/s)" for phase, w in phases.items())
        lines += [f"  best with {model}: {won}"] if won else []
    stalls = ", ".join(
        f"{name} {share['some']:.0f} %" for name, share in report["pressure"].items() if share["some"] >= 1
    )
    lines += [f"  waiting in the last 10 s: {stalls}"] if stalls else []
    if report["measuring"]:
        lines.append(f"  measuring {report['measuring']}")
    return "\n".join(lines)


def _memory_text(memory: Any) -> str:
    sizes = {name: f"{memory[name] / 2**20:.0f} MiB" for name in memory if memory[name] is not None}
    how = "as set" if memory["ram_bytes"] else "what is free less a margin"
    vram = f", at most {sizes['vram_bytes']} of GPU memory" if memory["vram_bytes"] else ""
    return f"{sizes['charged_bytes']} of {sizes['budget_bytes']} charged ({how}){vram}"


def _guesses_text(guesses: Any) -> str:
    last = f"; last answer: {guesses['last']}" if guesses["last"] else ""
    return f"speculation {guesses['setting']}, {guesses['state']}: {guesses['reason']}{last}"


def upstream_text(upstream: Any) -> str:
    """One upstream in a line, for `status`."""
    state = {"unknown": "not in use"}.get(upstream["state"], upstream["state"])
    told = [state] if upstream["latency_ms"] is None else [f"{state}, answers within {upstream['latency_ms']:.0f} ms"]
    told += [f"{upstream['requests']} requests, {upstream['failures']} failed"] if upstream["requests"] else []
    told += [f"{upstream['fallbacks']} answered by {upstream['fallback']}"] if upstream["fallbacks"] else []
    told += [f"last problem: {upstream['problem']}"] if upstream["problem"] else []
    return f"{upstream['name']} ({upstream['host']}): {'; '.join(told)}"


def _engine_text(engine: Any) -> str:
    if engine["state"] == "loading":
        return f"loading ({engine['stage']})"
    size = (engine["resident_bytes"] or 0) / 2**20
    state = f"{engine['users']} running" if engine["users"] else f"idle {_duration(engine['idle_s'])}"
    kv = f" in {engine['kv_type']}" if engine.get("kv_type") else ""
    away = f", {engine['remote_bytes'] / 2**20:.0f} MiB on RPC workers" if engine.get("remote_bytes") else ""
    return f"{state}, context {engine['n_ctx']}{kv}, {engine['threads']} threads, {size:.0f} MiB resident{away}"


def kept_text(engine: Any) -> str:
    """Until when an engine stays loaded, and why."""
    left, seconds = engine["unloads_in_s"], engine["keep_alive_s"]
    stays = "for good" if seconds < 0 else f"for {_duration(seconds)} after its last use"
    until = f", {_duration(left)} from now" if left is not None else ""
    return f"stays loaded {stays}{until} ({engine['kept']})"


def ahead_text(ahead: Any) -> str:
    """When a model is loaded unasked, and why."""
    return f"{ahead['model']} on {ahead['backend']} loads in {_duration(max(0, ahead['loads_in_s']))}: {ahead['why']}"


def _paging_text(paging: Any) -> str:
    chosen = "nothing decoded" if paging["selected"] is None else f"{paging['selected']:.0%} of pages attended to"
    read, held = (paging[name] / 2**20 for name in ("ssd_read_bytes", "ssd_bytes"))
    return f"pages: {paging['ram_bytes'] / 2**20:.0f} MiB RAM, {held:.0f} MiB SSD, {read:.0f} MiB read, {chosen}"


def _weights_text(weights: Any) -> str:
    """What of a model that does not fit is in memory."""
    mebibytes = {name: f"{weights[name] / 2**20:.0f}" for name in ("resident", "pinned", "paged", "budget", "read")}
    how = "paged" if weights["help"] == "paged" else "left to the kernel, which does better on this disk"
    if weights.get("failed"):
        how = f"left to the kernel ({weights['failed']})"
    guess, low, high = (weights[name] for name in ("predicted_tps", "predicted_low", "predicted_high"))
    rate = f"; about {guess:.1f} token/s expected ({low:.1f}-{high:.1f} as the disk was of late)" if guess else ""
    return (
        f"weights {how}: {mebibytes['resident']} MiB of {mebibytes['pinned']} + {mebibytes['paged']} in memory, "
        f"budget {mebibytes['budget']}, {mebibytes['read']} MiB read{rate}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@click.command()
@click.option("-n", "--lines", type=click.IntRange(1), default=50, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come.")
def logs(lines: int, follow: bool) -> None:
    """Print the daemon's log."""
    path = load().daemon_log
    if not path.exists():
        say("there is no log yet")
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file.readlines()[-lines:]:
            click.echo(line, nl=False)
        while follow:
            fresh = file.readline()
            if fresh:
                click.echo(fresh, nl=False)
            else:
                time.sleep(1.0)


@click.command()
@click.option("--force", is_flag=True, help="Replace a service file that is not ours.")
def install(force: bool) -> None:
    """Start the daemon at login, as a user service."""
    from localai.service import install as put

    config = load()
    say(put(sys.platform, Path.home(), sys.executable, config.home, force=force).message)


@click.command()
def uninstall() -> None:
    """Remove the user service."""
    from localai.service import uninstall as remove

    say(remove(sys.platform, Path.home()).message)
