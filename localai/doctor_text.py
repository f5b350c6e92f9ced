"""A `Report` or `Device` as plain, aligned text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from localai.calibration_text import tables
from localai.device import Device
from localai.doctor import Report

Row = tuple[str, str]

_WIDTH = 100


def render(report: Report) -> str:
    """The whole check-up: facts by section, what was turned off, then the problems and what to do."""
    sections = [
        ("Device", device_rows(report.device)),
        ("Engine", _engine_rows(report)),
        ("Energy", _energy_rows(report)),
        ("Installation", _installation_rows(report)),
        ("Turned off or tuned by self-tests", [("", line) for line in report.turned_off or ["nothing so far"]]),
    ]
    lines = [line for title, rows in sections for line in ("", title, *_aligned(rows))]
    lines += ["", "Engines measured here", *(f"  {line}" for line in tables(report.measured) or ["none so far"])]
    return "\n".join([*lines[1:], "", *_problem_lines(report)])


def render_device(device: Device) -> str:
    """What `localai device` prints."""
    return "\n".join(_aligned(device_rows(device)))


def device_rows(device: Device) -> list[Row]:
    """Name and value of each fact; sizes in GiB."""
    cpu, memory = device.cpu, device.memory
    quota = "" if cpu.quota is None else f", CPU time for {cpu.quota:g}"
    limit = "" if memory.limit is None else " (limited by a control group)"
    below = f"under {device.hypervisor} (hypervisor)" if device.hypervisor else "bare metal"
    swap = f"{_gib(memory.swap_total)} with {_gib(memory.swap_free)} free" if memory.swap_total else "none"
    rows = [
        ("system", f"{device.system} {device.kernel}, {device.machine}, {below}"),
        ("processor", cpu.model),
        ("cores", f"{cpu.physical} physical, {cpu.logical} logical{quota}"),
        ("features", " ".join(cpu.features) or "none that matter"),
        ("memory", f"{_gib(memory.total)}, {_gib(memory.available)} available{limit}"),
        ("swap", swap),
        ("disk", f"{_gib(device.disk_free)} free"),
    ]
    for card in device.gpus:
        size = "memory unknown" if card.memory_bytes is None else _gib(card.memory_bytes)
        rows.append(("GPU", f"{card.name}, {size}, driver {card.driver or 'none'} (found by {card.how_found})"))
    if not device.gpus:
        rows.append(("GPU", "none found"))
    return [*rows, ("fingerprint", device.fingerprint)]


def _engine_rows(report: Report) -> Iterator[Row]:
    if report.engine is None:
        yield "llama.cpp", f"cannot be used: {report.engine_error}"
        return
    build = report.engine
    yield "library", f"{build.label}, llama.cpp {build.llama_version}"
    yield "features", " ".join(build.features)
    for device in build.devices:
        size = "" if device.memory_bytes is None else f", {_gib(device.memory_bytes)}"
        yield "device", f"{device.name}: {device.description}{size}"
    yield "remote", "RPC workers can be used" if build.rpc else "built without RPC (needs -DGGML_RPC=on)"
    for advice in report.gpu_advice:
        yield "GPU unused", f"{advice.gpu}: {advice.why}"
        if advice.command:
            yield "rebuild", advice.command
        for need in advice.missing:
            yield "first install", need


def _energy_rows(report: Report) -> Iterator[Row]:
    energy = report.energy
    yield "figures", f"{energy.quality}{' (from CPU time and bytes moved)' if energy.quality == 'modelled' else ''}"
    for spec in energy.sensors:
        period = f"every {1000 * spec.period_s:g} ms"
        yield "sensor", f"{spec.id}: {spec.covers}, {spec.method}, {period}"
    for absent in energy.absent:
        yield "not used", f"{absent.what}: {absent.why}"
        if absent.hint:
            yield "to use it", absent.hint


def _installation_rows(report: Report) -> Iterator[Row]:
    home, port, daemon = report.home, report.port, report.daemon
    yield "Python", report.python
    yield "packages", ", ".join(f"{name} {version}" for name, version in report.packages.items() if version)
    if absent := [name for name, version in report.packages.items() if version is None]:
        yield "not installed", ", ".join(absent)
    state = f"mode {home.mode}" if home.exists else "not made yet"
    yield "home", f"{home.path} ({state}{f', {home.file_system}' if home.file_system else ''})"
    yield "daemon", f"running, process {daemon.pid}, {daemon.version}".rstrip(", ") if daemon.running else "not running"
    yield "port", f"{port.number}: {port.state}{f' by {port.by}' if port.state == 'taken' and port.by else ''}"
    yield "starter", "present" if report.starter else "not installed (pip install 'localai-daemon[starter]')"
    for store in report.stores:
        yield "models of", f"{store.program}: {store.path}"


def _problem_lines(report: Report) -> Iterator[str]:
    if not report.problems:
        yield "No problems found."
        return
    yield "Problems"
    for problem in report.problems:
        yield f"  {problem.severity}: {problem.what}"
        yield f"    {problem.hint}"


def _aligned(rows: Iterable[Row]) -> Iterator[str]:
    """Two columns; long values go on below themselves, commands stay on one line to be copied."""
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        whole = name in ("rebuild", "to use it")
        room = max(40, _WIDTH - width - 4)
        pieces = [value] if whole else wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, piece in enumerate(pieces):
            label = name if number == 0 else ""
            yield f"  {label:<{width}}  {piece}".rstrip() if width else f"  {piece}"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
