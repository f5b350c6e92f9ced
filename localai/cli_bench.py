"""`localai bench`: accuracy and joules of models, quantisations and backends; `bench compare`, `list`, `share`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from localai.cli import say, show
from localai.cli_ask import model_name
from localai.config import Config, load
from localai.errors import BadRequest
from localai.lifecycle import ensure_running, stop

if TYPE_CHECKING:
    from localai.bench.configurations import Chosen
    from localai.bench.journal import Journal
    from localai.bench.report import Report
    from localai.bench.tasks import Suite

_IDLE_S = {"quick": 5.0, "standard": 10.0, "full": 20.0}
_ROUNDS = {"quick": 3, "standard": 4, "full": 5}


@click.group(invoke_without_command=True)
@click.option("--suite", default="quick", show_default=True, help="Generated questions: quick, standard or full.")
@click.option("--task", "tasks", multiple=True, help="KIND=FILE or KIND=hf:owner/repo/file, instead of a suite.")
@click.option("-m", "--model", "models", multiple=True, help="Model to compare; may be repeated. Default: the default.")
@click.option("--quant", "quants", multiple=True, help="Quantisation of each model, as Q8_0; may be repeated.")
@click.option("-B", "--backend", "backends", multiple=True, help="Engine, as onnx or onnx:kv8. Default: all.")
@click.option("--threads", multiple=True, type=click.IntRange(1), help="Restart the daemon with so many; repeatable.")
@click.option("--limit", type=click.IntRange(0), default=0, help="Most questions of a category; 0 for all.")
@click.option("--rounds", type=click.IntRange(1, 20), default=None, help="Parts in which configurations take turns.")
@click.option("--seed", type=int, default=1, show_default=True, help="Other questions of the same kind.")
@click.option(
    "--memory", is_flag=True, help="Accuracy and joules against the size of the memory; --limit for its most."
)
@click.option("--fresh", is_flag=True, help="Begin anew where an interrupted run could go on.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder for report.json, .csv, .svg, .html.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as one JSON object.")
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure accuracy and joules of models, quantisations and backends on this device.

    Answers come from the running daemon, as ordinary requests. An interrupted run goes on when asked again.
    """
    if ctx.invoked_subcommand is None:
        _run_memory(options) if options["memory"] else _run(options)


def _run(options: dict[str, Any]) -> None:
    from localai.bench import report

    config = load()
    suite = _suite(config, options)
    chosen = _chosen(config, options)
    for reason in chosen.left_out:
        say(f"left out: {reason}")
    journal = _journal(config, suite, chosen, options)
    try:
        _answer(config, suite, chosen, journal)
    except KeyboardInterrupt:
        say("\nstopped; the same command goes on where this stopped")
        raise
    finally:
        journal.close()
    made = report.build(journal)
    _store(made, options["out"] or journal.path.with_name(journal.path.name.partition(".")[0]))
    show(report.as_json(made), options["as_json"], lambda _: _text(made))


def _run_memory(options: dict[str, Any]) -> None:
    import msgspec

    from localai.bench import journal, memory_plot, memory_size
    from localai.bench.progress import Progress

    config = load()
    if max(len(options["models"]), len(options["backends"])) > 1:
        raise BadRequest("--memory compares sizes of the memory, not models", "name one model and one backend")
    if ensure_running(config):
        say(f"started the daemon ({config.socket})")
    sizes = [size for size in memory_size.SIZES if not options["limit"] or size <= options["limit"]]
    with Progress(memory_size.QUESTIONS * len(sizes)) as progress:
        run = memory_size.MemoryRun(
            client=memory_size.client(config.socket),
            model=next(map(model_name, options["models"]), ""),
            backend=next(iter(options["backends"]), ""),
            sizes=sizes,
            seed=options["seed"],
            watcher=progress,
        )
        found = run.run()
    shown = {"sizes": msgspec.to_builtins(found)}
    drawing = memory_plot.svg(found)
    folder = options["out"] or journal.folder(config.home) / time.strftime("memory-%Y%m%d-%H%M%S", time.gmtime())
    _write(folder, {"memory.json": json.dumps(shown, indent=1), "memory.svg": drawing}, drawing)
    show(shown, options["as_json"], lambda value: memory_size.table(value["sizes"]))


def _text(made: Report) -> str:
    from localai.bench import tables

    return tables.text(made)


def _suite(config: Config, options: dict[str, Any]) -> Suite:
    from localai.bench.suites import generated

    if not options["tasks"]:
        return generated(options["suite"], options["seed"], options["limit"])
    from localai.bench.loaders import load_tasks

    return load_tasks(options["tasks"], config.home / "cache" / "bench", options["limit"])


def _chosen(config: Config, options: dict[str, Any]) -> Chosen:
    from localai.bench.configurations import choose
    from localai.catalog import Catalog
    from localai.library import Library

    library = Library(config.home, Catalog.load(config.home))
    models = [model_name(name) for name in options["models"]] or [config.default_model]
    return choose(library, models, options["quants"], options["backends"], options["threads"])


def _journal(config: Config, suite: Suite, chosen: Chosen, options: dict[str, Any]) -> Journal:
    """An interrupted run of the same plan, else a new one."""
    import msgspec

    from localai.bench import journal, surroundings
    from localai.bench.plan import digest
    from localai.bench.rows import Head
    from localai.device import inspect
    from localai.energy.sensors import find

    rounds = options["rounds"] or _ROUNDS.get(suite.name, 4)
    configurations = [msgspec.to_builtins(c) for c in chosen.configurations]
    plan = digest(suite.digest, configurations, rounds)
    found = None if options["fresh"] else journal.unfinished(config.home, plan)
    if found is not None:
        say(f"going on with the run of {time.strftime('%Y-%m-%d %H:%M', time.localtime(found.head.started))}")
        return found
    described = {"name": suite.name, "source": suite.source, "seed": suite.seed, "digest": suite.digest}
    head = Head(
        format=journal.FORMAT,
        plan=plan,
        started=time.time(),
        suite={**described, "questions": len(suite.items), "notes": list(suite.notes)},
        configurations=configurations,
        rounds=rounds,
        surroundings=surroundings.describe(inspect(config.home), find()),
    )
    return journal.begin(config.home, head)


def _answer(config: Config, suite: Suite, chosen: Chosen, journal: Journal) -> None:
    from localai.bench.asking import APP
    from localai.bench.progress import Progress
    from localai.bench.runner import Runner
    from localai.client import Client
    from localai.energy.sensors import find

    if ensure_running(config):
        say(f"started the daemon ({config.socket})")
    restarted = False

    def restart(threads: int) -> None:
        nonlocal restarted
        restarted = True
        stop(config)
        ensure_running(config, {"threads": threads})

    with Progress(len(suite.items) * len(chosen.configurations)) as progress:
        runner = Runner(
            client=Client(config.socket, app=APP),
            suite=suite,
            configurations=chosen.configurations,
            names=chosen.names,
            sensors=find().sensors,
            idle_s=_IDLE_S.get(suite.name, 10.0),
            restart=restart,
            watcher=progress,
        )
        try:
            runner.run(journal)
        finally:
            if restarted:
                # The daemon goes back to its own settings.
                stop(config)
                ensure_running(config)


def _store(made: Report, folder: Path) -> None:
    from localai.bench import pareto, report, tables

    drawing = pareto.svg(made.results)
    files = {
        "report.json": json.dumps(report.as_json(made), ensure_ascii=False, indent=1),
        "report.csv": report.as_csv(made),
        "report.svg": drawing,
        "report.html": tables.page(made),
    }
    _write(folder, files, drawing)


def _write(folder: Path, files: dict[str, str], drawing: str) -> None:
    """The files, and `drawing` as PNG beside its SVG where something is installed that can draw it."""
    from localai.atomic import replace_file
    from localai.bench import png

    content = {name: text.encode() for name, text in files.items()}
    if png.available():
        name = next(name for name in files if name.endswith(".svg"))
        content[name.replace(".svg", ".png")] = png.drawn(drawing)
    for name, value in content.items():
        replace_file(folder / name, value)
    say(f"written: {', '.join(content)} in {folder}")


def _read(path: Path) -> Report:
    from localai.bench import report

    return report.read(path / "report.json" if path.is_dir() else path)


@bench.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare two reports: what changed, and whether both rank alike."""
    import msgspec

    from localai.bench import compare as comparing

    found = comparing.compare(_read(a), _read(b))
    show(msgspec.to_builtins(found), as_json, lambda _: comparing.as_text(found))


@bench.command("share")
@click.argument("report", type=click.Path(path_type=Path))
@click.argument("to", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def share(report: Path, to: Path, as_json: bool) -> None:
    """Write the figures of REPORT to TO, for giving to others: no names, prompts or answers. Sends nothing."""
    from localai.atomic import replace_file
    from localai.bench.share import shared
    from localai.catalog import Catalog

    if to.exists():
        raise BadRequest(f"{to.name} exists", "name a new file")
    catalogue = {spec.id for spec in Catalog.load(load().home).specs}
    found = shared(_read(report), catalogue)
    replace_file(to, json.dumps(found, indent=1).encode())
    show(found, as_json, lambda _: f"{to}: {len(found['results'])} results; read it before you give it away")


@bench.command("list")
@click.option("--json", "as_json", is_flag=True)
def listing(as_json: bool) -> None:
    """List the runs that are kept here."""
    from localai.bench import journal

    rows = [row for path in sorted(journal.folder(load().home).glob("*.journal.jsonl")) if (row := _listed(path))]
    show({"runs": rows}, as_json, lambda v: "\n".join(_line(row) for row in v["runs"]) or "no runs yet")


def _listed(path: Path) -> dict[str, Any] | None:
    from localai.bench import journal
    from localai.bench.rows import End, Head

    entries = journal.read(path)
    if not entries or not isinstance(entries[0], Head):
        return None
    head = entries[0]
    names = [f"{c['model']} {c['backend']}" for c in head.configurations]
    finished = isinstance(entries[-1], End)
    return {
        "name": path.name.partition(".")[0],
        "suite": head.suite["name"],
        "configurations": names,
        "answered": len(journal.rows_of(entries)),
        "finished": finished,
        "folder": str(path.with_name(path.name.partition(".")[0])) if finished else None,
    }


def _line(row: dict[str, Any]) -> str:
    state = row["folder"] or f"interrupted after {row['answered']} answers"
    return f"{row['name']}  {row['suite']}  {len(row['configurations'])} configurations  {state}"
