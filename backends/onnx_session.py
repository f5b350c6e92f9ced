"""ONNX Runtime sessions of one graph, one for each thread count in use.

A session's threads are fixed when it is made, so the counts that the step loop chooses among each get a session; where
the graph's packed weights are mapped from a file, another one costs almost no memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    RuntimeException,
)

from backends.errors import BackendError, ModelFileError

_log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_NOT_HERE = frozenset({"AzureExecutionProvider"})
"""Providers that send data to other machines."""

ERRORS = (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile, RuntimeException, RuntimeError)
"""What the library raises, and plain RuntimeError where its binding does not translate."""


def providers() -> list[str]:
    """What this build of ONNX Runtime can run on, its own order of preference kept, the CPU last."""
    found = [name for name in ort.get_available_providers() if name not in _NOT_HERE and name != _CPU]
    return [*found, _CPU]


def version() -> str:
    return str(ort.get_version_string())


class Sessions:
    """Sessions over the graph at `path`, called `name` in errors."""

    def __init__(self, path: Path, name: str, devices: Sequence[str]) -> None:
        self._path = path
        self._name = name
        self._devices = list(devices)
        self._made: dict[int, ort.InferenceSession] = {}

    def get(self, threads: int) -> ort.InferenceSession:
        """The session with `threads` threads. Raises ModelFileError where the graph or its weights are damaged."""
        if threads not in self._made:
            self._made[threads] = open_session(self._path, self._name, self._devices, options_for(threads))
        return self._made[threads]

    def close(self) -> None:
        self._made.clear()


def open_session(
    graph: Path | bytes, name: str, devices: list[str], options: ort.SessionOptions
) -> ort.InferenceSession:
    """Of a file, or of a graph in memory. Raises ModelFileError, with `name`, where it or its weights are damaged."""
    try:
        return ort.InferenceSession(graph if isinstance(graph, bytes) else str(graph), options, providers=devices)
    except ERRORS as error:
        reason = re.sub(r"/\S+/", "", str(error).splitlines()[0])
        raise ModelFileError(f"{name} cannot be loaded: {reason}", "download it again or build it anew") from error


def run_error(error: Exception) -> BackendError:
    """What the library said of a step that failed."""
    return BackendError(f"ONNX Runtime refused a step: {str(error).splitlines()[0][:300]}", "retry once")


def options_for(threads: int) -> ort.SessionOptions:
    """What every session is made with, for `threads` threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Alone, threads that spin between the parts of a step make decode half as fast again; beside a neighbour they lose
    # more than that, but then the step loop goes down to fewer of them. Between steps none may spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
