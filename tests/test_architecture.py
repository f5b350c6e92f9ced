"""The shape of the code: imports go one way, modules and functions stay small, the spine stays readable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("backends", "memory_store", "localai", "tui")
MAY_IMPORT = {
    "backends": {"backends"},
    "memory_store": {"memory_store"},
    "localai": {"localai", "backends", "memory_store"},
    "tui": {"tui", "localai"},
}
TUI_SEES = {f"localai.{name}" for name in ("attached", "client", "errors", "messages", "sanitize", "unsent")}
GRAB_BAGS = {"utils", "util", "common", "helpers", "misc", "core", "base", "manager"}
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES, P90_FUNCTION_LINES = 400, 60, 30
MOST_BROAD_EXCEPTS = 3


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def known() -> frozenset[str]:
    return frozenset(name_of(path) for path in MODULES)


@cache
def own_imports(path: Path) -> frozenset[str]:
    return known().intersection(imports_of(path)) - {name_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    package = name_of(path).split(".")[0]
    allowed = MAY_IMPORT[package] | ({"tui"} if name_of(path) == "localai.cli_ask" else set())
    foreign = {name for name in own_imports(path) if name.split(".")[0] not in allowed}
    assert not foreign


def test_the_terminal_sees_the_client_only() -> None:
    seen = {n for p in MODULES if name_of(p).startswith("tui") for n in own_imports(p) if n.startswith("localai")}
    assert seen - {"localai"} <= TUI_SEES


def test_there_are_no_cycles() -> None:
    graph = {name_of(p): own_imports(p) for p in MODULES if p.name != "__init__.py"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        if name != "localai.cli_ask":
            visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small_and_say_what_they_are(path: Path) -> None:
    assert path.stem not in GRAB_BAGS
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree_of(path))


def functions() -> Iterator[tuple[str, int]]:
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{name_of(path)}.{node.name}", node.end_lineno - node.lineno + 1


def test_functions_fit_a_screen() -> None:
    sizes = sorted(functions(), key=lambda item: item[1])
    assert [item for item in sizes if item[1] > MOST_FUNCTION_LINES] == []
    assert sizes[int(0.9 * len(sizes))][1] <= P90_FUNCTION_LINES


def test_broad_excepts_stand_at_process_edges_only() -> None:
    broad = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert len(broad) <= MOST_BROAD_EXCEPTS, broad


def test_the_spine_names_its_stages_in_order() -> None:
    tree = tree_of(ROOT / "localai" / "turn.py")
    spine = next(n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef) and n.name == "answer")
    assert spine.end_lineno is not None
    assert spine.end_lineno - spine.lineno < 36
    stages = ["entry", "relay", "route", "lease", "recollect", "render", "decode", "saw"]
    assert re.findall(rf"\b({'|'.join(stages)})\b[(,]", ast.unparse(spine)) == stages


def test_no_unfinished_work_is_left() -> None:
    left = [
        f"{name_of(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", line)
    ]
    assert left == []


def test_mocks_stay_out_of_the_tests() -> None:
    used = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"\b(MagicMock|AsyncMock|unittest\.mock|monkeypatch\.setattr)\b", path.read_text(encoding="utf-8"))
    ]
    assert [name for name in used if name != Path(__file__).name] == []
