"""`localai doctor | device | completion`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from localai.cli import say, show
from localai.config import Config, load
from localai.errors import DaemonUnreachable
from localai.lifecycle import client

if TYPE_CHECKING:
    from localai.library import Library


@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--retest", is_flag=True, help="Forget what engines survived here, so that the next load tests again.")
@click.option("--calibrate", is_flag=True, help="Measure every engine with a model now; takes up to a minute or two.")
@click.option("-m", "--model", default="", help="Model to measure with; the default one otherwise.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, retest: bool, calibrate: bool, model: str) -> None:
    """Examine this device and the installation; exit code 1 where something needs attention."""
    if calibrate:
        from localai.cli_calibrate import calibrate as measure

        measure(load(), model, as_json)
        return
    from localai.calibration_store import CalibrationStore
    from localai.doctor import examine, to_json, with_problems
    from localai.doctor_text import render
    from localai.elsewhere import problems_elsewhere
    from localai.tested import TestedSettings

    config = load()
    tested = TestedSettings(config.home / "tested.json")
    if retest:
        tested.clear()
        say("forgotten: the next load of each model tests its engine settings again")
    report = examine(
        config.home,
        port=config.port,
        socket_path=config.socket,
        daemon=_daemon_seen(config),
        tested=tested,
        store=CalibrationStore(config.home),
    )
    report = with_problems(report, problems_elsewhere(config, _library(config), report.engine))
    if as_json:
        show(to_json(report), True, str)
    else:
        click.echo(render(report))
    ctx.exit(0 if report.healthy else 1)


def _library(config: Config) -> Library:
    from localai.catalog import Catalog
    from localai.library import Library

    return Library(config.home, Catalog.load(config.home))


def _daemon_seen(config: Config) -> Any:
    from localai.surroundings import DaemonSeen

    try:
        status = client(config).get("/localai/status")
    except DaemonUnreachable:
        return DaemonSeen(False)
    assert isinstance(status, dict)
    return DaemonSeen(True, status["pid"], status["version"])


@click.command()
@click.option("--json", "as_json", is_flag=True)
def device(as_json: bool) -> None:
    """Show what this device is and has."""
    from localai.device import inspect
    from localai.doctor import device_json
    from localai.doctor_text import render_device

    found = inspect(load().home)
    if as_json:
        show(device_json(found), True, str)
    else:
        click.echo(render_device(found))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes `localai` in SHELL; source it from your shell's start file."""
    from click.shell_completion import get_completion_class

    from localai.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "localai", "_LOCALAI_COMPLETE").source())
