"""`localai models list | ps | show | pull | import | quantize | rm | plan`, on the files; only `ps` asks the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localai.cli import progress_line, say, show
from localai.cli_plan import plan
from localai.config import load
from localai.errors import DaemonUnreachable
from localai.lifecycle import client

if TYPE_CHECKING:
    from localai.catalog import ModelSpec
    from localai.library import Library
    from localai.local_model import LocalModel
    from localai.transfer import PullProgress
    from localai.upstreams.spec import UpstreamSpec


@click.group()
def models() -> None:
    """List, show, pull, import, quantise, remove and plan models."""


models.add_command(plan)


def _library() -> Library:
    from localai.catalog import Catalog
    from localai.library import Library

    home = load().home
    return Library(home, Catalog.load(home))


@models.command("list")
@click.option("--all", "everything", is_flag=True, help="Add the catalogue's models that are not here yet.")
@click.option("--json", "as_json", is_flag=True)
def listing(everything: bool, as_json: bool) -> None:
    """List the models on this machine, wherever they came from."""
    library = _library()
    here = library.list()
    rows = [_local(model) for model in here]
    if everything:
        known = {model.spec.id for model in here if model.spec}
        rows += [_remote(spec) for spec in library.catalog.specs if spec.id not in known]
    rows += [_upstream(spec, model) for spec in library.catalog.upstreams for model in spec.models or ("...",)]
    show({"models": rows}, as_json, _table)


def _local(model: LocalModel) -> dict[str, Any]:
    header = model.header
    return {
        "id": model.id,
        "aliases": list(model.spec.aliases) if model.spec else [],
        "origin": model.origin,
        "base": model.base.id if model.base else None,
        "adapters": [{"file": Path(adapter.path).name, "scale": adapter.scale} for adapter in model.adapters],
        "here": True,
        "size_bytes": model.size_bytes,
        "parameters": header.parameters if header else None,
        "quant": header.quant if header else None,
        "context": header.n_ctx_train if header else None,
        "architecture": header.architecture if header else None,
        "path": str(model.path),
        "problem": model.problem,
    }


def _remote(spec: ModelSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "aliases": list(spec.aliases),
        "origin": "catalogue",
        "base": None,
        "adapters": [],
        "here": False,
        "size_bytes": None,
        "parameters": spec.parameters,
        "quant": spec.default_quant,
        "context": spec.context,
        "architecture": spec.family,
        "path": None,
        "problem": None,
    }


def _upstream(spec: UpstreamSpec, model: str) -> dict[str, Any]:
    """A model of another machine; one that is asked for its models is only asked when it is used."""
    unknown = dict.fromkeys(("base", "size_bytes", "parameters", "quant", "context", "architecture", "path", "problem"))
    origin = f"upstream {spec.host}" + (f", else {spec.fallback}" if spec.fallback else "")
    return {"id": f"{spec.name}/{model}", "aliases": [], "origin": origin, "adapters": [], "here": False, **unknown}


def _table(value: Any) -> str:
    if not value["models"]:
        return "no models here yet: `localai models list --all` shows what can be pulled"
    rows = [("MODEL", "PARAMETERS", "QUANT", "CONTEXT", "SIZE", "FROM")]
    for m in value["models"]:
        name = m["id"] + (f" ({', '.join(m['aliases'])})" if m["aliases"] else "")
        end = m["problem"] or m["origin"] + (f", over {m['base']}" if m["base"] else "")
        rows.append(
            (name, _count(m["parameters"]), m["quant"] or "", _tokens(m["context"]), _size(m["size_bytes"]), end)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)


def _count(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def _tokens(number: int | None) -> str:
    return "" if number is None else f"{number // 1024}k"


def _size(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


@models.command("ps")
@click.option("--json", "as_json", is_flag=True)
def loaded(as_json: bool) -> None:
    """Show which models are loaded, until when and why, and which will be loaded ahead of their use."""
    from localai.cli_daemon import ahead_text, kept_text

    report = client(load()).get("/localai/status")
    names = ("model", "backend", "mode", "state", "users", "charged_bytes", "keep_alive_s", "unloads_in_s", "kept")
    found = {"models": [{name: row[name] for name in names} for row in report["engines"]], "ahead": report["ahead"]}

    def text(value: Any) -> str:
        lines = [
            f"{row['model']} on {row['backend']}, {(row['charged_bytes'] or 0) / 2**20:.0f} MiB: "
            + (f"{row['users']} running; " if row["users"] else "")
            + (kept_text(row) if row["kept"] else row["state"])
            for row in value["models"]
        ]
        return "\n".join([*lines, *(ahead_text(ahead) for ahead in value["ahead"])] or ["no model is loaded"])

    show(found, as_json, text)


@models.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True)
def show_one(model: str, as_json: bool) -> None:
    """Show what is known of MODEL, here or in the catalogue."""
    import msgspec

    library = _library()
    spec = library.catalog.get(model)
    local = next((m for m in library.list() if model == m.id or (spec and m.spec and m.spec.id == spec.id)), None)
    if local is None and spec is None:
        local = library.resolve(model)
    value = {
        "local": _local(local) if local else None,
        "catalogue": msgspec.to_builtins(spec or (local.spec if local else None)),
    }
    show(value, as_json, _details)


def _details(value: Any) -> str:
    merged = {k: v for k, v in (value["catalogue"] or {}).items() if k not in ("id", "aliases", "context")}
    facts = {**(value["local"] or {"id": (value["catalogue"] or {}).get("id"), "here": False}), **merged}
    width = max(len(name) for name in facts)
    return "\n".join(f"{name.ljust(width)}  {_plain(v)}" for name, v in facts.items() if v not in (None, [], {}, ""))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@models.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True)
def pull(model: str, as_json: bool) -> None:
    """Download MODEL: a catalogue id, or hf:owner/repo[:quant]."""
    from localai.pull import Puller

    library = _library()
    puller = Puller(library)
    made = puller.pull(model, _show_progress)
    progress_line("")
    show(_local(made), as_json, lambda m: f"{m['id']}: {_size(m['size_bytes'])} in {m['path']}")


def _show_progress(p: PullProgress) -> None:
    share = f"{100 * p.done / p.total:5.1f} %" if p.total else ""
    eta = "" if p.eta_s is None else f", {p.eta_s:.0f} s left"
    progress_line(f"{p.file}  {share}  {_size(p.done)} of {_size(p.total)}, {p.rate / 2**20:.1f} MiB/s{eta}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default=None, help="Id to use; the file's name otherwise.")
@click.option("--base", default=None, help="FILE is a LoRA adapter, to be served over this model.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Strength of the adapter.")
@click.option("--link", is_flag=True, help="Hard-link instead of copying, where the disk allows it.")
@click.option("--json", "as_json", is_flag=True)
def import_(file: Path, name: str | None, base: str | None, scale: float, link: bool, as_json: bool) -> None:
    """Take a GGUF file into the data folder, after reading its header."""
    from localai.imports import import_file

    to = name or file.stem.lower()
    made = import_file(_library(), file, to, base=base, scale=scale, link=link, progress=_show_progress)
    progress_line("")
    show(_local(made), as_json, lambda m: f"{m['id']}: {_size(m['size_bytes'])} in {m['path']}")


@models.command()
@click.argument("model")
@click.argument("kind", metavar="TYPE")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads to use; all cores otherwise.")
@click.option("--json", "as_json", is_flag=True)
def quantize(model: str, kind: str, threads: int | None, as_json: bool) -> None:
    """Write MODEL in another quantisation, as Q8_0 or Q4_0, beside it."""
    import os

    from localai.quantize import quantize as make

    def show_tensors(done: int, total: int) -> None:
        progress_line(f"{done} of {total} tensors")

    made = make(_library(), model, kind, threads or os.cpu_count() or 1, show_tensors)
    progress_line("")
    for warning in made.warnings:
        say(f"note: {warning}")
    value = {**_local(made.model), "digest": made.model.digest, "warnings": list(made.warnings)}
    show(value, as_json, lambda m: f"{m['id']}: {_size(m['size_bytes'])} in {m['path']}")


@models.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True)
def rm(model: str, as_json: bool) -> None:
    """Delete a pulled or imported MODEL; what other programs own is left alone."""
    from localai.imports import remove

    library = _library()
    found = library.resolve(model)
    try:
        # The base of a sibling may go on serving others.
        if found.base is None:
            client(load()).post("/localai/unload", {"model": found.id}, timeout=None)
    except DaemonUnreachable:
        say("the daemon is not running, so nothing needs unloading")
    remove(library, found.id)
    show({"removed": found.id, "freed_bytes": found.size_bytes}, as_json, lambda m: f"removed {m['removed']}")
