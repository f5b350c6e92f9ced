"""What the ONNX engine runs: a graph that is ready to load, its layout, its tokenizer and what the file says of it.

The path of a load order enters, a GGUF file or a hub export; an OnnxModel leaves, or an error that names the file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.arch import arch_of_gguf
from backends.contract import Load
from backends.convert_onnx import VERSION, converted, file_digest
from backends.errors import ModelFileError, UnsupportedModel
from backends.gguf_tensors import GgufTensors
from backends.onnx_export import find_export
from backends.onnx_kv8 import MOST, SAMPLE, Scales, prefer_plain_attention, prepared, scales_in
from backends.onnx_layout import Layout, read_layout
from backends.onnx_modes import mode_named
from backends.onnx_packing import identity
from backends.tokenizer import Vocabulary, open_tokenizer

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """`graph` is the path of a `model.onnx`, `prefill_graph` of a faster one for prompts where the mode has one.

    `frequencies` turn a position into the angles of a head's pairs, empty where the graph knows them itself; `scratch`
    is a folder to be removed when the model is closed; `built` names all but the weights that shaped the graphs. With
    `scales` the layout is that of 8-bit KV caches, and `prefill_graph` is the same decoder with float32 ones.
    """

    graph: Path
    prefill_graph: Path | None
    name: str
    layout: Layout
    tokenizer: Vocabulary
    frequencies: tuple[float, ...]
    architecture: str
    description: str
    n_ctx_train: int
    width: int
    weight_bytes: int
    scratch: Path | None
    built: str
    scales: Scales | None = None

    def close(self) -> None:
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def open_model(order: Load, progress: Progress) -> OnnxModel:
    """Find or build the graph of `order.path`. Raises ModelFileError, UnsupportedModel."""
    path = Path(order.path)
    if not path.exists():
        raise ModelFileError(f"{path.name} does not exist", "give a GGUF file, or the folder of an ONNX export")
    if path.is_dir() or path.suffix == ".onnx":
        return _from_export(path, order)
    return _from_gguf(path, order, progress)


def _from_export(path: Path, order: Load) -> OnnxModel:
    if order.mode:
        raise UnsupportedModel(
            f"{path.name} computes as it was exported: it has no mode {order.mode!r}", "leave it out"
        )
    export = find_export(path)
    layout = read_layout(export.graph, path.name)
    return OnnxModel(
        graph=export.graph,
        prefill_graph=None,
        name=path.name,
        layout=layout,
        tokenizer=open_tokenizer(export.folder),
        frequencies=(),
        architecture=export.architecture,
        description=f"{path.name} (ONNX export)",
        n_ctx_train=export.n_ctx_train or order.n_ctx,
        width=export.width,
        weight_bytes=export.weight_bytes,
        scratch=None,
        built="as exported",
    )


def _from_gguf(path: Path, order: Load, progress: Progress) -> OnnxModel:
    tensors = GgufTensors(path)
    arch = arch_of_gguf(path.name, tensors.headers)
    mode = mode_named(order.mode)
    scratch = None if order.cache else Path(tempfile.mkdtemp(prefix="localai-onnx-"))
    digest, cache = file_digest(path), scratch or Path(order.cache)
    graph = converted(path, digest, mode.form, cache, progress)
    prefill = converted(path, digest, mode.prefill, cache, progress) if mode.prefill else None
    factors = tensors.floats("rope_freqs.weight").tolist() if arch.frequency_tensor else ()
    frequencies = tuple(arch.inverse_frequencies(factors))
    tokenizer, layout, scales = open_tokenizer(path), read_layout(graph, path.name), None
    if mode.kv8:
        prefer_plain_attention()
        sample = tokenizer.encode(SAMPLE, special=False, add_bos=tokenizer.add_bos)
        graph, prefill = prepared(graph, layout, sample[:MOST], frequencies), graph
        layout, scales = read_layout(graph, path.name), scales_in(graph, layout.layers)
    header = tensors.headers[0]
    return OnnxModel(
        graph=graph,
        prefill_graph=prefill,
        name=path.name,
        layout=layout,
        tokenizer=tokenizer,
        frequencies=frequencies,
        architecture=arch.family,
        description=f"{header.name or path.stem} {header.quant}",
        n_ctx_train=arch.n_ctx_train,
        width=arch.width,
        weight_bytes=sum(part.weight_bytes for part in tensors.headers),
        scratch=scratch,
        built=f"{VERSION} {identity()} {order.mode} {graph.stem}",
        scales=scales,
    )
