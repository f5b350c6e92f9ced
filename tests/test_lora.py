"""What is read of a LoRA adapter's file, and that damage to it costs an error and nothing else."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackendError
from backends.gguf import read_shards
from backends.lora import read_fitting, read_lora
from tests.engine_runs import STARTER
from tests.lora_files import TARGETS, factors, write_lora

BASE = read_shards(STARTER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    write_lora(made / "one.gguf", factors(1))
    return made


@given(place=st.integers(0, 2500), byte=st.integers(0, 255), end=st.integers(100, 400_000))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_is_judged_without_a_crash(folder: Path, place: int, byte: int, end: int) -> None:
    content = bytearray((folder / "one.gguf").read_bytes()[:end])
    content[min(place, len(content) - 1)] = byte
    path = folder / "damaged.gguf"
    path.write_bytes(content)
    said = ""
    try:
        assert read_fitting(path, BASE, STARTER.name).pairs
    except BackendError as error:
        said = error.message
    assert "damaged.gguf" in said or not said


def test_what_an_adapter_says_of_itself(folder: Path) -> None:
    path = folder / "said.gguf"
    write_lora(path, factors(4), general__name="Pi\x1brate", general__base_model__0__name="SmolLM2")
    lora = read_lora(path)
    assert (lora.name, lora.made_for, lora.architecture, lora.alpha) == ("Pirate", "SmolLM2", "llama", 8.0)
    assert {pair.target for pair in lora.pairs} == set(TARGETS)
    assert lora.size_bytes == sum(t.n_bytes for t in gguf.GGUFReader(path).tensors)
