"""The device description, against recorded file trees and against this machine."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backends.probe import features
from localai import cgroups, gpu
from localai.device import Device, Host, inspect
from localai.engine_build import Advice, EngineBuild, engine_build, gpu_advice
from localai.errors import BadRequest, EngineFailed

AMX_CPUINFO = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 ssse3 fma f16c avx avx2 bmi2 hypervisor avx512f avx512bw avx512_vnni amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu
"""
ARM_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes asimdhp asimddp i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""
MEMINFO = "MemTotal:  16000000 kB\nMemFree: 1 kB\nMemAvailable:  9000000 kB\nSwapTotal: 2000 kB\nSwapFree: 1000 kB\n"
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "32 31 0:29 /docker/a1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 /docker/a1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
PCI_IDS = (
    "8086  Intel Corporation\n\t46a6  Alder Lake-P GT2 [Iris Xe Graphics]\n\t\t1028 0a  Sub\n10de  NVIDIA Corporation\n"
)
CPU_ONLY = EngineBuild("llama-cpp-python", "0.3.36", "0.5.0", ("CPU",), (), ("avx2",), False, False, True, True, "x.so")


def record(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def pci(slot: str, kind: str, vendor: str, device: str, driver: str = "", **more: str) -> dict[str, str]:
    place = f"sys/bus/pci/devices/{slot}"
    uevent = f"DRIVER={driver}\nPCI_SLOT_NAME={slot}\n" if driver else f"PCI_SLOT_NAME={slot}\n"
    facts = {"class": kind, "vendor": vendor, "device": device, "uevent": uevent} | more
    return {f"{place}/{name}": content + "\n" for name, content in facts.items()}


NVIDIA = pci("0000:65:00.0", "0x030000", "0x10de", "0x2684", "nvidia") | {
    "proc/driver/nvidia/gpus/0000:65:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 98\n"
}
AMD = pci("0000:03:00.0", "0x038000", "0x1002", "0x744c", "amdgpu", mem_info_vram_total="25753026560")
INTEL = pci("0000:00:02.0", "0x030000", "0x8086", "0x46a6", "i915") | {"usr/share/misc/pci.ids": PCI_IDS}
NO_GPU = pci("0000:00:01.0", "0x030000", "0x1234", "0x1111", "bochs") | pci("0:1", "0x020000", "0x8086", "0x1", "e1000")
TEGRA = {"sys/class/drm/card0/device/uevent": "DRIVER=nvgpu\nOF_COMPATIBLE_0=nvidia,ga10b\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            NVIDIA, [gpu.Gpu("nvidia", "NVIDIA GeForce RTX 4090", None, "pci", "nvidia")], id="nvidia with its driver"
        ),
        pytest.param(
            {path: text for path, text in NVIDIA.items() if path.startswith("proc")},
            [gpu.Gpu("nvidia", "NVIDIA GeForce RTX 4090", None, "nvidia driver", "nvidia")],
            id="nvidia in a container without a PCI tree",
        ),
        pytest.param(AMD, [gpu.Gpu("amd", "AMD GPU 1002:744c", 25753026560, "pci", "amdgpu")], id="amd, unnamed"),
        pytest.param(INTEL, [gpu.Gpu("intel", "Intel Iris Xe Graphics", None, "pci", "i915")], id="intel, by pci.ids"),
        pytest.param(TEGRA, [gpu.Gpu("nvidia", "NVIDIA ga10b", None, "drm", "nvgpu")], id="tegra board"),
        pytest.param(NO_GPU, [], id="emulated display and a network card"),
        pytest.param({}, [], id="nothing at all"),
    ],
)
def test_gpus_are_found_without_vendor_libraries(
    tmp_path: Path, files: dict[str, str], expected: list[gpu.Gpu]
) -> None:
    assert list(gpu.find(record(tmp_path, files))) == expected


@pytest.mark.parametrize(
    ("files", "cpus", "memory", "available"),
    [
        pytest.param(
            {
                "proc/self/mountinfo": V2_MOUNT,
                "proc/self/cgroup": "0::/user.slice/app.service\n",
                "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/user.slice/memory.max": "4000000000\n",
                "sys/fs/cgroup/user.slice/memory.current": "3000000000\n",
                "sys/fs/cgroup/user.slice/memory.stat": "anon 1\ninactive_file 500000000\n",
                "sys/fs/cgroup/user.slice/app.service/cpu.max": "max 100000\n",
                "sys/fs/cgroup/user.slice/app.service/memory.max": "max\n",
            },
            1.5,
            4_000_000_000,
            1_500_000_000,
            id="version 2, limit of a parent group",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V1_MOUNTS,
                "proc/self/cgroup": "4:memory:/docker/a1\n1:cpu,cpuacct:/docker/a1/inner\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1200000000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 200000000\n",
            },
            0.5,
            2_000_000_000,
            1_000_000_000,
            id="version 1, mounted from the container's group",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V1_MOUNTS,
                "proc/self/cgroup": "4:memory:/docker/a1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
            None,
            id="version 1 without a limit",
        ),
        pytest.param({}, None, None, None, id="no control groups"),
    ],
)
def test_control_group_limits(
    tmp_path: Path, files: dict[str, str], cpus: float | None, memory: int | None, available: int | None
) -> None:
    assert cgroups.limits(record(tmp_path, files)) == cgroups.Limits(cpus, memory, available)


def linux(root: Path, **changes: object) -> Host:
    host = Host(root, "Linux", "6.8.0-41-generic", "x86_64", frozenset((0, 1, 2, 3)))
    return replace(host, **changes)  # type: ignore[arg-type]


def amx_machine(root: Path) -> Path:
    topology = {f"sys/devices/system/cpu/cpu{n}/topology/core_id": str(n // 2) for n in range(4)}
    limit = {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "8000000000\n"}
    return record(root, {"proc/cpuinfo": AMX_CPUINFO, "proc/meminfo": MEMINFO} | topology | limit)


def test_inspect_reads_a_recorded_amx_machine(tmp_path: Path) -> None:
    found = inspect(tmp_path / "not" / "there", linux(amx_machine(tmp_path)))
    assert found.cpu.model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert {"amx_tile", "amx_int8", "avx512_vnni", "f16c"} <= set(found.cpu.features)
    assert (found.cpu.physical, found.cpu.logical, found.cpu.threads) == (2, 4, 2)
    assert (found.memory.total, found.memory.available) == (8_000_000_000, 8_000_000_000)
    assert found.memory.limit == 8_000_000_000
    assert found.memory.swap_free == 1_024_000
    assert found.hypervisor == "unnamed"
    assert found.disk_free > 0


def test_inspect_reads_an_arm_board(tmp_path: Path) -> None:
    record(tmp_path, {"proc/cpuinfo": ARM_CPUINFO, "proc/device-tree/model": "Raspberry Pi 5 Model B\0"})
    found = inspect(tmp_path, linux(tmp_path, machine="aarch64"))
    assert found.cpu.model == "Raspberry Pi 5 Model B"
    assert found.cpu.features == ("bf16", "dotprod", "fp16", "i8mm", "neon")
    assert found.hypervisor == ""


SYSCTL = """\
#!/bin/sh
echo "machdep.cpu.brand_string: Apple M4 Pro"
echo "hw.memsize: 25769803776"
echo "hw.optional.arm64: 1"
echo "hw.optional.arm.FEAT_I8MM: 1"
echo "hw.optional.arm.FEAT_SME: 0"
echo "sysctl: unknown oid 'kern.hv_vmm_present'" >&2
exit 1
"""


def test_inspect_reads_apple_silicon(tmp_path: Path) -> None:
    record(tmp_path, {"usr/sbin/sysctl": SYSCTL})
    (tmp_path / "usr/sbin/sysctl").chmod(0o755)
    found = inspect(tmp_path, linux(tmp_path, system="Darwin", machine="arm64", kernel="25.0.0"))
    assert found.gpus == (gpu.Gpu("apple", "Apple M4 Pro GPU", 25769803776, "platform", "metal"),)
    assert found.cpu.features == ("i8mm", "neon")
    assert found.hypervisor == ""
    assert advise(found, CPU_ONLY, "xcrun", "c++")[0].command.startswith('CMAKE_ARGS="-DGGML_METAL=on" ')


def test_fingerprint_follows_what_settings_depend_on(tmp_path: Path) -> None:
    device = inspect(tmp_path, linux(amx_machine(tmp_path)))
    same = [replace(device, disk_free=1), replace(device, kernel="6.8.12"), inspect(tmp_path, linux(tmp_path))]
    other = [
        replace(device, kernel="6.11.0"),
        replace(device, hypervisor=""),
        replace(device, cpu=replace(device.cpu, features=())),
        replace(device, gpus=(gpu.Gpu("amd", "AMD X", None, "pci"),)),
    ]
    assert {found.fingerprint for found in same} == {device.fingerprint}
    assert len({found.fingerprint for found in [device, *other]}) == 5


def test_this_machine_is_described_quickly(tmp_path: Path) -> None:
    host = Host()
    inspect(tmp_path, host)
    start = time.thread_time()
    device = inspect(tmp_path, host)
    assert time.thread_time() - start < 0.1
    assert 0 < device.memory.available <= device.memory.total
    assert 1 <= device.cpu.physical <= device.cpu.logical
    assert device.cpu.model


def test_installed_engine_describes_itself() -> None:
    build = engine_build()
    assert build.backends[-1] == "CPU" or "CPU" in build.backends
    assert build.label.startswith(f"llama-cpp-python {build.version} (")
    assert any(device.kind == "cpu" and device.memory_bytes for device in build.devices)
    assert build.features


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
NOISE = (
    "import os; os.write(1, b'ggml_init: noise\\n{'); os.write(1, b'\\n'); import backends.probe; backends.probe.main()"
)
MISSING = "import sys; sys.modules['llama_cpp'] = None; import backends.probe; backends.probe.main()"


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        pytest.param(CRASH, EngineFailed, "SIGSEGV", id="library crashes"),
        pytest.param("raise SystemExit(3)", EngineFailed, "exit code 3", id="child exits with an error"),
        pytest.param("print('not JSON')", EngineFailed, "cannot be read", id="nonsense"),
        pytest.param("import time; time.sleep(120)", EngineFailed, "within 1 s", id="driver hangs"),
        pytest.param(MISSING, BadRequest, "llama-cpp-python cannot be loaded", id="package missing"),
    ],
)
def test_a_broken_engine_library_is_a_typed_error(code: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        engine_build(1.0 if "sleep" in code else 120.0, (sys.executable, "-c", code))
    assert getattr(caught.value, "hint", "")


def test_noise_on_standard_output_does_not_break_the_answer() -> None:
    assert engine_build(command=(sys.executable, "-c", NOISE)).package == "llama-cpp-python"


def test_features_are_the_names_that_are_on() -> None:
    line = "CPU : SSE3 = 1 | AMX_INT8 = 0 | AVX512_VNNI = 1 | CUDA : ARCHS = 890 | USE_GRAPHS = 1 | "
    assert features(line) == ["archs", "avx512_vnni", "sse3", "use_graphs"]


def with_gpus(root: Path, *trees: dict[str, str]) -> Device:
    for tree in trees:
        record(root, tree)
    return inspect(root, linux(root))


def advise(device: Device, build: EngineBuild, *tools: str) -> tuple[Advice, ...]:
    return gpu_advice(device, build, lambda tool: f"/usr/bin/{tool}" if tool in tools else None)


@pytest.mark.parametrize(
    ("tree", "tools", "switch", "missing"),
    [
        pytest.param(NVIDIA, ("nvcc", "g++"), "-DGGML_CUDA=on", "", id="nvidia, all there"),
        pytest.param(NVIDIA, ("g++",), "-DGGML_CUDA=on", "nvcc", id="nvidia, no toolkit"),
        pytest.param(NVIDIA, ("g++", "glslc"), "-DGGML_VULKAN=on", "", id="nvidia, Vulkan is at hand"),
        pytest.param(AMD, ("hipcc",), "-DGGML_HIP=on", "C++ compiler", id="amd, no host compiler"),
        pytest.param(INTEL, ("c++",), "-DGGML_VULKAN=on", "glslc", id="intel"),
    ],
)
def test_an_idle_gpu_is_named_with_the_rebuild(
    tmp_path: Path, tree: dict[str, str], tools: tuple[str, ...], switch: str, missing: str
) -> None:
    (advice,) = advise(with_gpus(tmp_path, tree), CPU_ONLY, *tools)
    assert advice.command.startswith(f'CMAKE_ARGS="{switch}" ')
    assert "--no-binary llama-cpp-python" in advice.command
    assert advice.command.endswith('"llama-cpp-python==0.3.36"')
    assert len(advice.missing) == bool(missing)
    assert missing in " ".join(advice.missing)


def test_advice_fits_what_is_installed(tmp_path: Path) -> None:
    device = with_gpus(tmp_path, NVIDIA, AMD)
    cuda = replace(CPU_ONLY, backends=("CUDA", "CPU"))
    assert [advice.gpu for advice in advise(device, CPU_ONLY)] == ["AMD GPU 1002:744c", "NVIDIA GeForce RTX 4090"]
    driverless = next(advice for advice in advise(device, cuda) if "NVIDIA" in advice.gpu)
    assert (driverless.command, "driver" in driverless.why) == ("", True)
    twins = replace(device, gpus=(device.gpus[1], device.gpus[1]))
    assert [advice.gpu for advice in advise(twins, CPU_ONLY)] == ["2 x NVIDIA GeForce RTX 4090"]
    nouveau = replace(device, gpus=(replace(device.gpus[1], driver="nouveau"),))
    assert "NVIDIA's own kernel driver" in advise(nouveau, CPU_ONLY, "nvcc", "c++")[0].missing


def test_a_gpu_in_use_needs_no_advice(tmp_path: Path) -> None:
    build = engine_build()
    gpu_seen = replace(build.devices[0], name="CUDA0", kind="gpu")
    assert advise(with_gpus(tmp_path, NVIDIA), replace(build, devices=(gpu_seen,))) == ()
