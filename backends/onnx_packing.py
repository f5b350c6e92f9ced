"""A graph as this machine's kernels want it, on disk: optimised, its weights packed, to be mapped by every session.

The path of a graph enters; another graph with one data file leaves. It is good for the processor and the version of
ONNX Runtime that made it, which `identity` names.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from backends.onnx_session import open_session, options_for, version

_ALIGNMENT = 64
"""Kernels load packed weights with instructions that need it; the library itself does not see to it in files."""
_CPU = "CPUExecutionProvider"
_INLINE = "256"


def identity() -> str:
    """Of what packed weights depend on: library version, processor and its instruction sets."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    wanted = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    said = "\n".join([platform.machine(), platform.processor(), *sorted(wanted)])
    return f"{version()}-{hashlib.blake2b(said.encode(), digest_size=4).hexdigest()}"


def pack(source: Path, target: Path, data_name: str) -> None:
    """Write the graph at `source` to `target`, its weights to the file `data_name` beside it."""
    partial = target.with_name("packing")
    options = options_for(1)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", partial.name)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _INLINE)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    open_session(source, source.name, [_CPU], options)
    model = onnx.load(str(target), load_external_data=False)
    with partial.open("rb") as old, target.with_name(data_name).open("wb") as new:
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                _move(tensor, data_name, lambda offset, size: _copy(old, new, offset, size))
    target.write_bytes(model.SerializeToString())
    partial.unlink()


def _copy(old: BinaryIO, new: BinaryIO, offset: int, size: int) -> int:
    """Append a piece of the old file to the new one; return where it begins there."""
    new.write(b"\0" * (-new.tell() % _ALIGNMENT))
    place = new.tell()
    old.seek(offset)
    new.write(old.read(size))
    return place


def _move(tensor: TensorProto, data_name: str, copy: Callable[[int, int], int]) -> None:
    """Copy a tensor's bytes and those packed from them (`key|offset;size;hash|...`), and note where they are now."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    said["location"] = data_name
    said["offset"] = str(copy(int(said["offset"]), int(said["length"])))
    for key in [key for key in said if key.startswith("prepacked_")]:
        name, *blobs = said[key].split("|")
        moved = []
        for blob in blobs:
            offset, size, *rest = blob.split(";")
            moved.append(";".join([str(copy(int(offset), int(size))), size, *rest]))
        said[key] = "|".join([name, *moved])
    del tensor.external_data[:]
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
