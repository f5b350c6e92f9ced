"""`localai models plan`: what would fit here and how fast it would be, before or after a download. Needs no daemon."""

from __future__ import annotations

from typing import Any

import click

from localai.cli import show
from localai.config import load, size_of


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    count = None if value is None else size_of(value)
    if value is not None and count is None:
        raise click.BadParameter(f"{value!r} is no size such as 4G", ctx, param)
    return count


@click.command()
@click.argument("model")
@click.option("--ctx", type=click.IntRange(min=1), default=None, help="Context to serve, in tokens.")
@click.option("--tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Prompt to time, in tokens.")
@click.option("--ram", callback=_size, default=None, help="Memory to plan for, as 4G; what is free now otherwise.")
@click.option("--vram", callback=_size, default=None, help="GPU memory to plan for, as 8G; all of it otherwise.")
@click.option("--measure", is_flag=True, help="First measure what KV types cost in accuracy, where it is not known.")
@click.option("--all", "everything", is_flag=True, help="Show the candidates too that others beat, or that do not fit.")
@click.option("--json", "as_json", is_flag=True)
def plan(
    model: str,
    ctx: int | None,
    tokens: int,
    ram: int | None,
    vram: int | None,
    measure: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Show which ways of running MODEL fit this device, and how fast each would be.

    MODEL is installed, a catalogue id, or hf:owner/repo[:quant], of which only the header is fetched.
    """
    from functools import partial

    from localai.calibration_store import CalibrationStore
    from localai.catalog import Catalog
    from localai.device import inspect
    from localai.energy.draw import Draws
    from localai.kv_accuracy import costs_here
    from localai.library import Library
    from localai.plans import Limits, plan_model
    from localai.variants import Finder

    config = load()
    library = Library(config.home, Catalog.load(config.home))
    store = CalibrationStore(config.home)
    if measure:
        from localai.cli_calibrate import measure_kv

        measure_kv(config, library.resolve(model), store)
    draws = Draws(config.home / "watts.json", inspect(config.home).fingerprint)
    limits = Limits(ctx or 0, tokens, ram or 0, vram).checked()
    known = store.readings, draws, partial(costs_here, store), store.paged_readings
    found = plan_model(model, limits, config, Finder(library), *known)
    show(found, as_json, lambda value: _table(value, everything=everything))


def _table(value: dict[str, Any], *, everything: bool) -> str:
    shown = [row for row in value["rows"] if row["front"] or everything]
    head = ["", "QUANT", "BACKEND", "THREADS", "GPU", "KV", "CONTEXT", "MEMORY", "PREFILL", "DECODE", "TTFT", "J/TOKEN"]
    lines = [head, *(_line(row) for row in shown)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    where = "here" if value["here"] else "on the hub; nothing was downloaded"
    text.insert(0, f"{value['model']} ({where}), {_bytes(value['device']['ram_bytes'])} of RAM to plan with\n")
    text.append(
        f"\nPrefill and decode in token/s, TTFT after a prompt of {value['tokens']} tokens, each with the range that "
        "nine of ten measurements should lie in."
    )
    shown_joules = {row["energy"]["basis"] for row in shown}
    text.append(f"J/TOKEN is of decode, beyond idle ({'; '.join(sorted(shown_joules))}); ~ is modelled, not measured.")
    text += [f"{mark} {basis}" for mark, basis in _bases(shown).items()]
    text += sorted({_paged(row["paged"]) for row in shown if row["paged"]})
    text += [f"Speculation: {line}" for line in dict.fromkeys(_guesses(row) for row in shown)]
    fitting = sum(row["fits"] for row in value["rows"])
    hidden = len(value["rows"]) - len(shown)
    if hidden:
        beaten = fitting - sum(row["front"] for row in value["rows"])
        text.append(f"Not shown: {beaten} that others beat, {len(value['rows']) - fitting} that do not fit (--all).")
    from localai.kv_plan import kv_text

    text += kv_text(value)
    return "\n".join(text + value["notes"] + ([value["hint"]] if value["hint"] else []))


def _line(row: dict[str, Any]) -> list[str]:
    return [
        ("*" if row["front"] else " " if row["fits"] else "x") + ("" if row["measured"] else "?"),
        row["quant"] + ("~" if row["size_estimated"] else ""),
        " ".join(filter(None, (row["backend"], row["mode"]))),
        str(row["threads"]),
        str(row["gpu_layers"] or "-"),
        row["kv_type"],
        str(row["context"]),
        _memory(row),
        _range(row["prefill_tps"]),
        _range(row["decode_tps"]),
        _range({name: number / 1000 for name, number in row["ttft_ms"].items()}) + " s",
        _joules(row["energy"]),
    ]


def _guesses(row: dict[str, Any]) -> str:
    way, found = " ".join(filter(None, (row["backend"], row["mode"]))), row["speculation"]
    return f"{way}: {found['state']}, {found['reason']}"


def _paged(paged: dict[str, Any]) -> str:
    held, whole = _bytes(paged["resident"]), _bytes(paged["whole"])
    return f"paged: {held} of {whole} of weights stay in memory, the others are read from the disk for each token."


def _memory(row: dict[str, Any]) -> str:
    memory, paged = row["memory"], row["paged"]
    beside = f" + {_bytes(memory['vram_bytes'])}" if memory["vram_bytes"] else ""
    return _bytes(memory["ram_bytes"]) + beside + (" paged" if paged else "")


def _joules(energy: dict[str, Any]) -> str:
    """Of decode; what is worked out and not measured carries a mark."""
    known = energy["decode_joules_per_token"]
    return "unknown" if known is None else f"{known['value']:.2g}{'~' if energy['quality'] == 'modelled' else ''}"


def _bases(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What the marks in front of the rows mean, as far as they occur."""
    found = {"*": "beaten by no other candidate in memory, speed and fidelity at once"}
    if any(row["size_estimated"] for row in rows):
        found["~"] = "sized by the hub's listing"
    guessed = sorted({row["basis"] for row in rows if not row["measured"]})
    if guessed:
        found["?"] = "; ".join(guessed)
    known = sorted({row["basis"] for row in rows if row["measured"]})
    return found | ({"Predicted from": "; ".join(known)} if known else {})


def _range(bar: dict[str, float]) -> str:
    return f"{_short(bar['value'])} ({_short(bar['low'])}-{_short(bar['high'])})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
