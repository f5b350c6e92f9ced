"""JSON read while it is being written: valid JSON leaves in pieces, as early as it is certain.

Slips that models make and that have one meaning are put right: raw line breaks in strings, Python's True, False and
None, a comma before a closing bracket. Anything else raises NotJson. Space between values is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from localai.textstream import Reading, TextStream

SPACE = " \t\r\n"
_MAX_DEPTH = 48
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_WORD = re.compile(r"[-+.\w]*", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_NAMES = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}

Out = Callable[[str], None]


class NotJson(Exception):
    """The text is not JSON, or ends before the value does."""


def read_value(stream: TextStream, out: Out, depth: int = 0) -> Reading[None]:
    """Read one value of any type and hand it to `out` in pieces."""
    yield from stream.skip(SPACE)
    first = yield from stream.peek()
    if first == '"':
        out((yield from stream.take(1)))
        yield from read_string(stream, out)
        out('"')
    elif first in ("{", "["):
        if depth >= _MAX_DEPTH:
            raise NotJson
        yield from _read_members(stream, out, depth, "}" if first == "{" else "]")
    else:
        letters: list[str] = []
        yield from stream.run(_WORD, letters.append)
        word = "".join(letters)
        if word not in _NAMES and not _NUMBER.fullmatch(word):
            raise NotJson
        out(_NAMES.get(word, word))


def _read_members(stream: TextStream, out: Out, depth: int, end: str) -> Reading[None]:
    out((yield from stream.take(1)))
    comma = ""
    while True:
        yield from stream.skip(SPACE)
        if (yield from stream.peek()) == end:
            break
        out(comma)
        if end == "}":
            yield from expect(stream, '"')
            out('"')
            yield from read_string(stream, out)
            out('"')
            yield from expect(stream, ":")
            out(":")
        yield from read_value(stream, out, depth + 1)
        yield from stream.skip(SPACE)
        if (yield from stream.peek()) != ",":
            break
        stream.at += 1
        comma = ","
    yield from expect(stream, end)
    out(end)


def read_string(stream: TextStream, out: Out) -> Reading[None]:
    """Read a string from behind its opening quote past the closing one; `out` gets what stands between them."""
    while True:
        yield from stream.run(_PLAIN, out)
        character = yield from stream.take(1)
        if character == '"':
            return
        if not character:
            raise NotJson
        if character != "\\":
            out(json.dumps(character)[1:-1])
            continue
        escaped = yield from stream.take(1)
        if escaped == "u":
            digits = yield from stream.take(4)
            if not _HEX.fullmatch(digits):
                raise NotJson
            out("\\u" + digits)
        elif escaped and escaped in '"\\/bfnrt':
            out("\\" + escaped)
        elif escaped:
            # An escape that JSON does not have: `\'` means the quote, any other the two characters as they stand.
            out("'" if escaped == "'" else "\\\\" + json.dumps(escaped, ensure_ascii=False)[1:-1])


def read_text(stream: TextStream) -> Reading[str]:
    """The decoded value of the string that comes next."""
    yield from expect(stream, '"')
    parts: list[str] = []
    yield from read_string(stream, parts.append)
    text: str = json.loads(f'"{"".join(parts)}"')
    return text


def expect(stream: TextStream, character: str) -> Reading[None]:
    """Pass over space and `character`."""
    yield from stream.skip(SPACE)
    if (yield from stream.take(1)) != character:
        raise NotJson
