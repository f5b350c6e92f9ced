"""Real texts of this machine, each with a question that its author wrote: manual pages and documentation of Python.

Folders and modules enter, texts leave. The line of NAME asks for its page, the first sentence of a docstring for the
rest of it; the text does not hold the sentence that asks.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

MANUAL = Path("/usr/share/man")
MOST_TEXT = 4000
FAMILY = 300
"""So many pages of one program at most: some have thousands that say nearly the same."""
_ROFF = re.compile(r"\\f(?:\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&/,|^%]|\\\*(?:\(..|\[[^]]*\]|.)")
_SKIPPED = (".\\", "'\\", ".TH", ".Dd", ".de", ".if", ".ie", ".el", ".ds", ".nr")
_NOISY = {"antigravity", "this", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "test"}
_ASIDE = {"tests", "testing", "conftest", "setup", "distutils", "f2py", "demo", "__main__"}
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]`'\"][.!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Text:
    """`question` asks for `text`; `whole` is the text with it; `name` is what others may call it."""

    name: str
    question: str
    text: str
    whole: str


def manual_pages(folders: Iterable[Path]) -> Iterator[Text]:
    """Of folders like /usr/share/man/man1, each page once, at most FAMILY of one program, in the order of paths."""
    held = Counter[str]()
    seen = set[str]()
    for path in (path for folder in folders for path in sorted(folder.glob("*.*")) if not path.is_symlink()):
        family = re.split(r"[-_.]", path.name)[0]
        if held[family] == FAMILY:
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sections = dict(sections_of(content.decode("utf-8", "replace")))
        name, sep, about = " ".join(sections.pop("NAME", "").split()).partition(" - ")
        body = "\n".join(text for text in sections.values() if text)[:MOST_TEXT]
        if sep and name and _asks(about) and len(body) >= 300 and about not in seen:
            held[family] += 1
            seen.add(about)
            yield Text(re.sub(r"\.gz$", "", path.name).rpartition(".")[0], about, body, f"{name} - {about}\n{body}")


def sections_of(source: str) -> Iterator[tuple[str, str]]:
    """Rough text of a manual page, by section: enough for words, not for reading."""
    title, held = "", list[str]()
    for line in source.split("\n"):
        if line.startswith((".SH", ".Sh")):
            yield title, "\n".join(held)
            title, held = line[3:].strip().strip('"').upper(), []
        elif not line.startswith(_SKIPPED):
            held.append(_plain(line))
    yield title, "\n".join(held)


def _plain(line: str) -> str:
    text = re.sub(r"^[.'][A-Za-z]{1,3}\s*", "- " if line.startswith(".Nd") else "", line)
    for roff, char in (("\\-", "-"), ("\\(em", "-"), ("\\(aq", "'"), ("\\e", "\\")):
        text = text.replace(roff, char)
    return _ROFF.sub("", text).replace('"', " ").strip()


def docstrings(modules: Sequence[str]) -> Iterator[Text]:
    """Of what these modules define: functions, classes and what these define in turn."""
    seen = set[str]()
    for module in modules:
        try:
            members = inspect.getmembers(importlib.import_module(module), callable)
        except (ImportError, OSError, RuntimeError, AttributeError):
            continue
        own = [(name, value) for name, value in members if getattr(value, "__module__", None) == module]
        inner = [
            (f"{name}.{part}", inside)
            for name, value in own
            if inspect.isclass(value)
            for part, inside in sorted(vars(value).items())
            if callable(inside) or isinstance(inside, (staticmethod, classmethod, property))
        ]
        for name, value in (*own, *inner):
            doc = inspect.getdoc(value) or ""
            first, _, rest = doc.partition("\n\n")
            first = " ".join(first.split())
            if first not in seen and _asks(first) and len(rest) >= 150:
                seen.add(first)
                whole = f"{module}.{name}"
                yield Text(whole, first, f"{whole}\n{rest[:MOST_TEXT]}", f"{whole}\n{doc[:MOST_TEXT]}")


def standard_modules() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules() if module.name in sys.stdlib_module_names)
    return sorted(name for name in names if name[0] != "_" and name not in _NOISY)


def modules_of(packages: Sequence[str]) -> list[str]:
    """The public modules of those of these packages that are installed."""
    found: list[str] = []
    for package in packages:
        if importlib.util.find_spec(package) is None:
            continue
        top = importlib.import_module(package)
        inside = (module.name for module in pkgutil.walk_packages(top.__path__, f"{package}.", onerror=lambda _: None))
        found += [package, *(name for name in inside if not _ASIDE & set(name.split(".")) and "._" not in name)]
    return found


def reference(folder: Path) -> Iterator[Text]:
    """Of Sphinx pages in HTML: each function, class and method; its first sentence asks for the rest."""
    seen = set[str]()
    for path in sorted(folder.glob("*.html")):
        reader = _Entries()
        reader.feed(path.read_text(encoding="utf-8", errors="replace"))
        for name, text in reader.found:
            first, *rest = _SENTENCE.split(" ".join(text.replace("¶", " ").split()), maxsplit=1)
            body = "".join(rest)[:MOST_TEXT]
            if first not in seen and _asks(first) and len(body) >= 150:
                seen.add(first)
                yield Text(name, first, f"{name}\n{body}", f"{name}\n{first} {body}")


class _Entries(HTMLParser):
    """(name, text of its description) for each `dt id=...` with its `dd`; inner entries stand for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._name = ""
        self._open: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "dt":
            self._name = dict(attrs).get("id") or self._name
        elif tag == "dd":
            self._open.append((self._name, []))
            self._name = ""
        elif self._open and tag in ("p", "li", "pre", "dl"):
            self._open[-1][1].append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "dd" and self._open:
            name, held = self._open.pop()
            if name:
                self.found.append((name, "".join(held)))

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)


def _asks(sentence: str) -> bool:
    return 15 <= len(sentence) <= 200 and " " in sentence
