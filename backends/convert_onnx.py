"""A GGUF file as an ONNX model on disk, built once and kept under the file's digest.

A GGUF path, a form and a cache folder enter; the path of a checked `model.onnx` leaves. What is found there is used
only if its sizes and checksums are as they were written; anything else is built again, and the log says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from backends.arch import Arch, arch_of_gguf
from backends.errors import ModelFileError
from backends.gguf import shards
from backends.gguf_tensors import GgufTensors
from backends.onnx_graph import CONTRIB, OPSET, build_graph
from backends.onnx_modes import Form
from backends.onnx_packing import identity, pack

VERSION = 1
"""To be raised with every change of what is built."""

_GRAPH, _WEIGHTS, _SUMS = "model.onnx", "model.onnx.data", "checksums.json"
_IR_VERSION = 10
_ALIGNMENT = 4096
_INLINE = 256
_CHUNK = 1 << 22
_log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


def converted(path: Path, digest: str, form: Form, cache: Path, progress: Progress) -> Path:
    """The graph of the GGUF `path`, which has this digest, from `cache` or built into it.

    Raises UnsupportedModel, ModelFileError, and OSError where the cache cannot be written.
    """
    folder = cache / f"{digest}-{VERSION}-{identity()}-{form.name}"
    if folder.exists():
        fault = _fault(folder)
        if not fault:
            return folder / _GRAPH
        _log.warning("the converted graph of %s is built again: %s", path.name, fault)
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
    try:
        tensors = GgufTensors(path)
        convert(arch_of_gguf(path.name, tensors.headers), tensors, form, partial, progress)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / _GRAPH


def file_digest(path: Path) -> str:
    """A digest of all parts of a model: their sizes, times and headers would not do, an edit in place changes bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in shards(path):
        try:
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise ModelFileError(f"{part.name} cannot be read: {error.strerror}", "check its permissions") from error
    return digest.hexdigest()


def convert(arch: Arch, tensors: GgufTensors, form: Form, folder: Path, progress: Progress) -> None:
    """Write the graph, packed for this machine's kernels, and its checksums into `folder`."""
    raw = folder / "raw"
    raw.mkdir()
    _write(arch, tensors, form, raw, progress)
    progress("pack", 0.0)
    pack(raw / _GRAPH, folder / _GRAPH, _WEIGHTS)
    shutil.rmtree(raw)
    sums = {name: [(folder / name).stat().st_size, _crc32(folder / name)] for name in (_GRAPH, _WEIGHTS)}
    (folder / _SUMS).write_text(json.dumps(sums), encoding="utf-8")


def _write(arch: Arch, tensors: GgufTensors, form: Form, folder: Path, progress: Progress) -> None:
    total = sum(tensor.size for header in tensors.headers for tensor in header.tensors)
    with (folder / _WEIGHTS).open("wb") as file:
        data = _ExternalData(file, lambda written: progress("convert", min(1.0, written / total)))
        graph = build_graph(arch, tensors, form, data)
        graph.initializer.extend(data.initializers)
    model = helper.make_model(
        graph,
        producer_name="localai",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        ir_version=_IR_VERSION,
    )
    (folder / _GRAPH).write_bytes(model.SerializeToString())


class _ExternalData:
    """A `onnx_graph.Sink` that appends values to one file, each on a page of its own."""

    def __init__(self, file: Any, written: Callable[[int], None]) -> None:
        self._file = file
        self._written = written
        self._places: dict[str, int] = {}
        self.initializers: list[TensorProto] = []
        self.offset = 0

    def add(self, name: str, values: NDArray[Any], same_as: str = "") -> None:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
        if values.nbytes <= _INLINE:
            tensor.raw_data = np.ascontiguousarray(values).tobytes()
        else:
            if not same_as:
                self._append(b"\0" * (-self.offset % _ALIGNMENT))
                self._places[name] = self.offset
                self._append(np.ascontiguousarray(values).data.cast("B"))
            tensor.data_location = TensorProto.EXTERNAL
            place = self._places[same_as or name]
            for key, value in (("location", _WEIGHTS), ("offset", place), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        self._written(self.offset)

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.offset += len(data)


def _fault(folder: Path) -> str:
    """What is wrong with a converted graph; '' where nothing is."""
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        for name in (_GRAPH, _WEIGHTS):
            size, checksum = sums[name]
            if (folder / name).stat().st_size != size:
                return f"{name} has the wrong size"
            if _crc32(folder / name) != checksum:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_SUMS} cannot be used: {error}"
    return ""


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
