"""What the installed llama.cpp build can do on this device, and the command that builds what it lacks.

A child process is asked (`backends.probe`), a `Device` is compared; an `EngineBuild` and `Advice` leave.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

import backends
from backends import errors as backend_errors
from localai.device import Device
from localai.errors import EngineFailed, from_backend
from localai.gpu import Vendor

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """One device of the engine: `kind` is cpu, gpu, igpu or accelerator; bytes are its total memory, None unknown."""

    name: str
    description: str
    kind: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """An installed engine library. `features` are lower-case instruction sets that it was built with and found."""

    package: str
    version: str
    llama_version: str
    backends: tuple[str, ...]
    devices: tuple[EngineDevice, ...]
    features: tuple[str, ...]
    gpu_offload: bool
    rpc: bool
    mmap: bool
    mlock: bool
    library: str

    @property
    def label(self) -> str:
        """Package, version and ggml backends: `llama-cpp-python 0.3.36 (CPU)`. Another build has another label."""
        return f"{self.package} {self.version} ({', '.join(self.backends)})"

    @property
    def sees_gpu(self) -> bool:
        return any(device.kind in ("gpu", "igpu") for device in self.devices)


@dataclass(frozen=True, slots=True)
class Advice:
    """A GPU that the engine does not use: why, the shell command that changes it ('' for none), and what it needs."""

    gpu: str
    why: str
    command: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Route:
    """One way to a GPU: the CMake switch, the name its backend has in ggml, and the compiler it needs."""

    api: str
    switch: str
    backend: str
    tool: str
    package: str


_CUDA = _Route("CUDA", "GGML_CUDA", "CUDA", "nvcc", "the CUDA toolkit")
_ROCM = _Route("ROCm", "GGML_HIP", "ROCm", "hipcc", "the ROCm HIP SDK")
_VULKAN = _Route("Vulkan", "GGML_VULKAN", "Vulkan", "glslc", "the Vulkan SDK, with its headers and SPIRV-Headers")
_METAL = _Route("Metal", "GGML_METAL", "MTL", "xcrun", "the Xcode command-line tools (xcode-select --install)")
_ROUTES: dict[Vendor, tuple[_Route, ...]] = {
    "nvidia": (_CUDA, _VULKAN),
    "amd": (_ROCM, _VULKAN),
    "intel": (_VULKAN,),
    "apple": (_METAL,),
}


def engine_build(
    timeout: float = 60.0, command: tuple[str, ...] = (sys.executable, "-m", "backends.probe")
) -> EngineBuild:
    """Ask the installed library in a child process, `timeout` seconds at most.

    Raises EngineFailed where the child crashes, hangs or answers nonsense, BadRequest where the package is missing.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout, check=False, cwd=Path(backends.__file__).parent.parent
        )
    except subprocess.TimeoutExpired as error:
        message = f"the engine library did not say within {timeout:g} s what it can do"
        raise EngineFailed(message, "a GPU driver may hang: see the system's log, or restart the machine") from error
    answer = done.stdout.strip().rpartition(b"\n")[2]
    if done.returncode:
        raise EngineFailed(f"the engine library ended with {_ending(done.returncode)} while loading", _REINSTALL)
    try:
        return msgspec.json.decode(answer, type=EngineBuild)
    except msgspec.MsgspecError as error:
        raise _told(answer) from error


_REINSTALL = f"reinstall it: {shlex.quote(sys.executable)} -m pip install --force-reinstall llama-cpp-python"


@dataclass(frozen=True, slots=True)
class _Complaint:
    kind: str
    message: str
    hint: str


def _told(answer: bytes) -> Exception:
    """The error that the child named in place of its answer."""
    try:
        said = msgspec.json.decode(answer, type=_Complaint)
    except msgspec.MsgspecError:
        return EngineFailed("the engine library's description of itself cannot be read", _REINSTALL)
    return from_backend(backend_errors.rebuild(said.kind, said.message, said.hint))


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def gpu_advice(device: Device, build: EngineBuild, which: Which = shutil.which) -> tuple[Advice, ...]:
    """One piece of advice per vendor whose GPUs the installed build leaves idle; empty where it uses one."""
    if build.sees_gpu:
        return ()
    named: dict[Vendor, list[str]] = {}
    for card in device.gpus:
        named.setdefault(card.vendor, []).append(card.name)
    drivers = {card.vendor: card.driver for card in device.gpus}
    return tuple(_advise(vendor, _counted(names), drivers[vendor], build, which) for vendor, names in named.items())


def _advise(vendor: Vendor, cards: str, driver: str, build: EngineBuild, which: Which) -> Advice:
    routes = _ROUTES[vendor]
    if built := next((route for route in routes if route.backend in build.backends), None):
        why = f"the engine was built for {built.api} but finds no device: is its driver loaded, may this user open it?"
        return Advice(cards, why, "", ())
    if driver == "vfio-pci":
        return Advice(cards, "it is reserved for a virtual machine (driver vfio-pci)", "", ())
    route = next((route for route in routes if which(route.tool)), routes[0])
    missing = [] if which(route.tool) else [f"{route.tool} ({route.package})"]
    if not any(which(compiler) for compiler in ("c++", "g++", "clang++")):
        missing.append("a C++ compiler (g++ or clang++)")
    if route is _CUDA and driver in ("", "nouveau"):
        missing.append("NVIDIA's own kernel driver")
    why = f"the installed engine was built for {', '.join(build.backends)} only"
    return Advice(cards, why, rebuild_command(f"-D{route.switch}=on", build.version), tuple(missing))


def _counted(names: list[str]) -> str:
    return ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def rebuild_command(switches: str, version: str, python: str = sys.executable) -> str:
    """The shell command that builds this version again with other CMake switches, into this very environment.

    `--no-deps` keeps the packages beside it as they are; uv takes the place of a pip that is not installed.
    """
    interpreter = shlex.quote(python)
    pip = f"{interpreter} -m pip install" if find_spec("pip") else f"uv pip install --python {interpreter}"
    setting = f'CMAKE_ARGS="{switches}" ' if switches else ""
    flags = "--force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python"
    return f'{setting}{pip} {flags} "llama-cpp-python=={version}"'
