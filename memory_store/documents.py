"""What a document says: a file of one of many formats enters, blocks of text with their places leave.

It runs in a child process with limits, because files from anywhere are read here; it knows nothing of the store.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from memory_store.errors import InvalidMemory

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

MOST_BYTES = 256 << 20
MOST_UNPACKED = 256 << 20
MOST_RATIO = 200
MOST_ENTRIES = 10_000
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_CODE_START = re.compile(
    r"^(?:async\s+)?(?:def|class|fn|func|function|impl|struct|enum|trait|interface|module|namespace|type|pub|export|"
    r"public|private|protected|static|void|int|template)\b"
)
_CODE = frozenset(
    re.findall(
        r"\S+",
        ".py .pyi .js .mjs .ts .tsx .jsx .c .h .cc .cpp .hpp .rs .go .java .kt .swift .rb .php .cs .sh .bash .zsh .sql "
        ".lua .pl .r .scala .zig .toml .ini .cfg .yaml .yml .json .css",
    )
)
_TEXT = frozenset((".txt", ".text", ".log", ".rst", ".csv", ".tsv", ".org", ".tex", ""))
# A reader of the page sees none of these, and what is hidden from people is not to be remembered for them.
_UNSEEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])", re.IGNORECASE
)
_UNSEEN_COMMENT = re.compile(r"(^(?P<fence>```|~~~).*?^(?P=fence))|<!--.*?(?:-->|\Z)", re.MULTILINE | re.DOTALL)
_SKIPPED = ("script", "style", "noscript", "template", "svg", "nav")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list, table row or function; `place` is the headings above it, or its page."""

    text: str
    place: str = ""


def kinds() -> frozenset[str]:
    """The endings of names that can be read."""
    return frozenset(_READERS)


def extract(path: Path) -> list[Block]:
    """Raises InvalidMemory for what cannot be read, is too large, or is of no known format."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(filter(None, _READERS)))
        raise InvalidMemory(f"no reader for files ending in {path.suffix or path.name!r}", f"known are {known}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidMemory(f"the file is larger than {MOST_BYTES >> 20} MiB", "cut it into parts")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidMemory(f"the file cannot be read: {error.strerror}", "check that it is still there") from error
    return [block for block in reader(content) if block.text.strip()]


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidMemory("the file is not text in UTF-8 or UTF-16", "save it as UTF-8") from error
    if "\0" in text:
        raise InvalidMemory("the file is not text: it has NUL characters", "save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(content: bytes) -> Iterator[Block]:
    for part in re.split(r"\n\s*\n", _decoded(content)):
        yield Block(part.strip("\n"))


def _markdown(content: bytes) -> Iterator[Block]:
    trail: list[str] = []
    held: list[str] = []
    fenced = False
    shown = _UNSEEN_COMMENT.sub(lambda found: found[1] or "", _decoded(content))
    for line in [*shown.split("\n"), ""]:
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HEADING.match(line)
        if heading or (not line.strip() and not fenced):
            yield Block("\n".join(held), " > ".join(trail))
            held = []
        if heading:
            trail = [*trail[: len(heading[1]) - 1], heading[2]]
        elif line.strip() or fenced:
            held.append(line)
    yield Block("\n".join(held), " > ".join(trail))


def _code(content: bytes) -> Iterator[Block]:
    """Whole definitions, from one line that begins at the margin to the next."""
    held: list[str] = []
    first = 1
    for number, line in enumerate(_decoded(content).split("\n"), 1):
        if _CODE_START.match(line) and any(_CODE_START.match(other) or not other.strip() for other in held):
            yield Block("\n".join(held).strip("\n"), f"line {first}")
            held, first = [], number
        held.append(line)
    yield Block("\n".join(held).strip("\n"), f"line {first}")


def _html(content: bytes) -> Iterator[Block]:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise _missing("HTML and EPUB") from error
    tree = LexborHTMLParser(content)
    tree.strip_tags(list(_SKIPPED), recursive=True)
    _drop_unseen(tree)
    trail: list[str] = []
    for node in tree.css("h1,h2,h3,h4,h5,h6,p,li,pre,td,th,dd,dt,blockquote,figcaption"):
        if any(child.tag in ("p", "li", "pre", "blockquote") for child in node.iter()):
            continue
        text = node.text(separator="" if node.tag == "pre" else " ")
        text = text if node.tag == "pre" else " ".join(text.split())
        if node.tag is not None and re.fullmatch("h[1-6]", node.tag):
            trail = [*trail[: int(node.tag[1]) - 1], text]
        else:
            yield Block(text, " > ".join(trail))
    if tree.body is not None and tree.css_first("p,li,pre,td,dd,h1,h2,blockquote") is None:
        yield Block(" ".join(tree.body.text(separator=" ").split()))


def _drop_unseen(tree: LexborHTMLParser) -> None:
    gone = set[int]()
    for node in tree.css("body[hidden], body[style], body [hidden], body [style]"):
        if node.mem_id in gone or not ("hidden" in node.attributes or _unseen(node.attributes.get("style"))):
            continue
        # What lies in it goes with it, and must not be touched after that.
        gone |= {inner.mem_id for inner in node.traverse()}
        node.decompose()


def _unseen(style: str | None) -> bool:
    return style is not None and _UNSEEN_STYLE.search(style) is not None


def _pdf(content: bytes) -> Iterator[Block]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise _missing("PDF") from error
    try:
        reader, told = PdfReader(io.BytesIO(content)), False
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidMemory("the PDF is protected by a password", "save it without one")
        for number, page in enumerate(reader.pages, 1):
            for part in re.split(r"\n\s*\n", page.extract_text()):
                told = told or bool(part.strip())
                yield Block(part.strip(), f"page {number}")
    # The library lets errors of its parsing through; which ones depends on how the file is broken.
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise InvalidMemory("the PDF is damaged", "open it in a viewer and save it again") from error
    if not told:
        hint = "let an OCR program read its pages first, for example `ocrmypdf in.pdf out.pdf`"
        raise InvalidMemory("the PDF has no text: it may be scanned", hint)


def _docx(content: bytes) -> Iterator[Block]:
    try:
        from docx import Document
        from docx.opc.exceptions import OpcError
    except ImportError as error:
        raise _missing("DOCX") from error
    _unpacked(content)
    try:
        document = Document(io.BytesIO(content))
    except (OpcError, KeyError, ValueError, SyntaxError) as error:
        raise InvalidMemory("the DOCX file is damaged", "open it in an office program and save it again") from error
    trail: list[str] = []
    for paragraph in document.paragraphs:
        style = (paragraph.style.name or "") if paragraph.style is not None else ""
        if style.startswith("Heading") and style[-1:].isdigit():
            trail = [*trail[: int(style[-1]) - 1], paragraph.text.strip()]
        else:
            yield Block(paragraph.text.strip(), " > ".join(trail))
    for table in document.tables:
        for row in table.rows:
            yield Block(" | ".join(cell.text.strip() for cell in row.cells), "table")


def _epub(content: bytes) -> Iterator[Block]:
    """Chapters in the order of the spine; the container names the package, the package names the chapters."""
    archive = _unpacked(content)
    try:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        package = next(node.attrib["full-path"] for node in container.iter() if node.tag.endswith("rootfile"))
        root = ElementTree.fromstring(archive.read(package))
        items = {n.attrib["id"]: n.attrib["href"] for n in root.iter() if n.tag.endswith("}item")}
        spine = [items[n.attrib["idref"]] for n in root.iter() if n.tag.endswith("}itemref")]
        folder = package.rpartition("/")[0]
        for href in spine:
            yield from _html(archive.read(f"{folder}/{href}" if folder else href))
    except (KeyError, StopIteration, ElementTree.ParseError, zipfile.BadZipFile) as error:
        raise InvalidMemory("the EPUB file is damaged", "convert it again") from error


def _unpacked(content: bytes) -> zipfile.ZipFile:
    """The archive, if what it claims to unpack to is bearable."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise InvalidMemory("the file is damaged: it is no ZIP archive", "get it again") from error
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    if len(entries) > MOST_ENTRIES or size > MOST_UNPACKED or (size > 1 << 20 and size / packed > MOST_RATIO):
        raise InvalidMemory("the archive unpacks to far more than it should", "this looks like a ZIP bomb: leave it")
    return archive


def _missing(what: str) -> InvalidMemory:
    return InvalidMemory(
        f"{what} files need a package that is not installed", "pip install 'localai-daemon[documents]'"
    )


_READERS: dict[str, Callable[[bytes], Iterator[Block]]] = {
    **dict.fromkeys(_TEXT, _text),
    **dict.fromkeys(_CODE, _code),
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
    ".docx": _docx,
    ".epub": _epub,
}
