"""Reads the header of a GGUF file that nobody vouches for.

A path or a seekable binary stream enters; a frozen GgufHeader leaves, or a ModelFileError that names the field.
Refuses what llama.cpp refuses, and limits what it does not. Knows nothing of engines or of tensor values.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from backends.bounded import RETRY, BoundedReader
from backends.errors import ModelFileError
from backends.ggml_types import ARRAY, SCALARS, STRING, TENSOR_TYPES
from backends.gguf_header import ArrayField, GgufHeader, Scalar, TensorInfo, Value

MAX_HEADER = 1 << 28
MAX_PAIRS = 65_536
MAX_TENSORS = 131_072
MAX_STRING = 1 << 24
MAX_KEY = 65_535
MAX_STRINGS = 1 << 21
MAX_ALIGNMENT = 1 << 20
EAGER_NUMBERS = 1_024
EAGER_STRINGS = 64

_TENSOR_NAME = 63
_DIMENSIONS = 4
_INT64_MAX = (1 << 63) - 1
_ALIGNMENT = 32
_FORMATS = dict(SCALARS.values())
_SHARD = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf")


def read_header(source: Path | BinaryIO) -> GgufHeader:
    """Read and check one file, or one seekable stream such as ranges of a remote file.

    Raises ModelFileError where anything is missing, out of bounds or contradictory, tensor data past the end included.
    """
    with _opened(source) as stream:
        reader = BoundedReader(stream, MAX_HEADER)
        version, tensor_count, pair_count = _preamble(reader)
        metadata, types = _metadata(reader, pair_count)
        tensors = _tensors(reader, tensor_count)
        data_offset = _data_offset(reader, metadata, tensors)
        placed = _placed(tensors, data_offset, _alignment(metadata), reader.size)
        header = GgufHeader(
            version, MappingProxyType(metadata), placed, data_offset, reader.size, MappingProxyType(types)
        )
        if not header.architecture:
            raise ModelFileError("general.architecture is missing", RETRY)
        return header


def read_array(source: Path | BinaryIO, array: ArrayField) -> tuple[Scalar, ...]:
    """Read the elements of an array that `read_header` left in the file. Raises ModelFileError."""
    with _opened(source) as stream:
        reader = BoundedReader(stream, MAX_HEADER)
        if array.offset > reader.size:
            raise ModelFileError("the file is shorter than when its header was read", RETRY)
        reader.seek(array.offset)
        return _elements(reader, array.type, array.count, "the array")


def shards(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` belongs to, in order: itself, or every part of a split GGUF.

    Raises ModelFileError where a part is missing.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match["no"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelFileError(f"{path.name} is numbered outside its own count", "rename it as its author published it")
    names = [f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    missing = [name for name in names if not path.with_name(name).exists()]
    if missing:
        raise ModelFileError(
            f"{len(missing)} of {count} parts are missing, the first is {missing[0]}",
            "download all parts into one folder",
        )
    return tuple(path.with_name(name) for name in names)


def read_shards(path: Path) -> tuple[GgufHeader, ...]:
    """Read every part of the model that `path` belongs to; the first header carries the metadata.

    Raises ModelFileError where a part is missing, broken, or does not say that it is this part of this many.
    """
    paths = shards(path)
    headers = tuple(read_header(part) for part in paths)
    for number, (part, header) in enumerate(zip(paths, headers, strict=True)):
        if (header.split_index, header.split_count) != (number, len(paths)) and header.split_count != 0:
            raise ModelFileError(
                f"{part.name} says it is part {header.split_index + 1} of {header.split_count}, "
                f"its name says {number + 1} of {len(paths)}",
                "keep the file names as published and download all parts from one place",
            )
    return headers


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    try:
        if not source.is_file():
            raise ModelFileError(f"{source.name} is not a file", "give the path of a .gguf file that exists")
        stream = source.open("rb", buffering=0)
    except OSError as error:
        raise ModelFileError(f"{source.name} cannot be opened: {error.strerror}", "check its permissions") from error
    with stream:
        yield stream


def _preamble(reader: BoundedReader) -> tuple[int, int, int]:
    magic = reader.take(4, "the magic number")
    if magic != b"GGUF":
        raise ModelFileError("the file does not begin with GGUF", "give a .gguf file; other formats need converting")
    version = reader.unsigned("the version", 4)
    if version not in (2, 3):
        swapped = " (written on a big-endian machine)" if version & 0xFFFF == 0 else ""
        raise ModelFileError(f"GGUF version {version}{swapped} is not supported", "convert the model again")
    tensors = reader.unsigned("the tensor count")
    pairs = reader.unsigned("the metadata count")
    for what, count, limit in (("tensors", tensors, MAX_TENSORS), ("metadata pairs", pairs, MAX_PAIRS)):
        if count > limit:
            raise ModelFileError(f"the header claims {count} {what}, at most {limit} are allowed", RETRY)
    return version, tensors, pairs


def _metadata(reader: BoundedReader, count: int) -> tuple[dict[str, Value], dict[str, str]]:
    metadata: dict[str, Value] = {}
    types: dict[str, str] = {}
    strings_left = MAX_STRINGS
    for index in range(count):
        key = reader.string(f"metadata key {index}", MAX_KEY)
        if not key or key in metadata:
            raise ModelFileError(f"metadata key {index} is {'given twice' if key else 'empty'}", RETRY)
        types[key], value = _value(reader, key, strings_left)
        if isinstance(value, ArrayField) and value.type == "string":
            strings_left -= value.count
        metadata[key] = value
    return metadata, types


def _value(reader: BoundedReader, key: str, strings_left: int) -> tuple[str, Value]:
    kind = reader.unsigned(f"the type of {_shown(key)}", 4)
    if kind != ARRAY:
        name = _type_name(kind, key)
        return name, _elements(reader, name, 1, _shown(key))[0]
    name = _type_name(reader.unsigned(f"the element type of {_shown(key)}", 4), key)
    count = reader.unsigned(f"the element count of {_shown(key)}")
    field = ArrayField(name, count, reader.offset)
    if name == "string":
        if count > strings_left:
            raise ModelFileError(f"{_shown(key)} claims {count} strings, too many for a header", RETRY)
        if count <= EAGER_STRINGS:
            return "array", _elements(reader, name, count, _shown(key))
        reader.skip_strings(count, _shown(key))
        return "array", field
    if count <= EAGER_NUMBERS:
        return "array", _elements(reader, name, count, _shown(key))
    reader.skip(count * struct.calcsize(_FORMATS[name]), _shown(key))
    return "array", field


def _type_name(kind: int, key: str) -> str:
    if kind == STRING:
        return "string"
    if kind not in SCALARS:
        nested = "an array of arrays" if kind == ARRAY else f"of unknown type {kind}"
        raise ModelFileError(f"{_shown(key)} is {nested}", RETRY)
    return SCALARS[kind][0]


def _elements(reader: BoundedReader, name: str, count: int, what: str) -> tuple[Scalar, ...]:
    if name == "string":
        reader.need(count * 8, what)
        return tuple(reader.string(what, MAX_STRING) for _ in range(count))
    code = _FORMATS[name]
    raw = reader.take(count * struct.calcsize(code), what)
    return tuple(item[0] for item in struct.iter_unpack(code, raw))


def _tensors(reader: BoundedReader, count: int) -> list[TensorInfo]:
    """Read the tensor table; offsets still count from the start of the data."""
    tensors: dict[str, TensorInfo] = {}
    for index in range(count):
        name = reader.string(f"the name of tensor {index}", _TENSOR_NAME)
        if name in tensors:
            raise ModelFileError(f"tensor {_shown(name)} is listed twice", RETRY)
        dimensions = reader.unsigned(f"the dimension count of {_shown(name)}", 4)
        if dimensions > _DIMENSIONS:
            raise ModelFileError(f"tensor {_shown(name)} claims {dimensions} dimensions, at most 4 are allowed", RETRY)
        shape = tuple(reader.unsigned(f"the shape of {_shown(name)}") for _ in range(dimensions))
        kind = reader.unsigned(f"the type of {_shown(name)}", 4)
        offset = reader.unsigned(f"the offset of {_shown(name)}")
        tensors[name] = _tensor(name, shape, kind, offset)
    return list(tensors.values())


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
    stored = TENSOR_TYPES.get(kind)
    if stored is None:
        raise ModelFileError(f"tensor {_shown(name)} has unknown type {kind}", "update localai, or convert again")
    elements = prod(shape)
    if any(side > _INT64_MAX for side in shape) or elements > _INT64_MAX:
        raise ModelFileError(f"tensor {_shown(name)} is too large to exist", RETRY)
    if (shape[0] if shape else 1) % stored.block:
        raise ModelFileError(f"the rows of {_shown(name)} are not whole blocks of {stored.block}", RETRY)
    return TensorInfo(name, shape, stored.name, offset, elements // stored.block * stored.size)


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", _ALIGNMENT)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise ModelFileError("general.alignment is not a power of two", RETRY)
    return value


def _data_offset(reader: BoundedReader, metadata: dict[str, Value], tensors: list[TensorInfo]) -> int:
    return _padded(reader.offset, _alignment(metadata)) if tensors else reader.offset


def _placed(tensors: list[TensorInfo], start: int, alignment: int, size: int) -> tuple[TensorInfo, ...]:
    """Put the tensors at their place in the file: one after the other, without gap or overlap, up to the end."""
    expected = 0
    placed = []
    for tensor in tensors:
        if tensor.offset != expected:
            raise ModelFileError(
                f"tensor {_shown(tensor.name)} has offset {tensor.offset}, the one before it ends at {expected}", RETRY
            )
        if start + expected + tensor.size > size:
            missing = start + expected + tensor.size - size
            raise ModelFileError(
                f"the file is truncated: tensor {_shown(tensor.name)} ends {missing} bytes past its end", RETRY
            )
        placed.append(TensorInfo(tensor.name, tensor.shape, tensor.type, start + expected, tensor.size))
        expected += _padded(tensor.size, alignment)
    return tuple(placed)


def _padded(count: int, alignment: int) -> int:
    return (count + alignment - 1) // alignment * alignment


def _shown(name: str) -> str:
    """A name from the file, safe to print."""
    return repr(name[:80])
