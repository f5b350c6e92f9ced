"""Which graphics processors are present, found without any vendor's library: a file tree enters, `Gpu`s leave.

Knows nothing of engines: whether one can use a GPU is asked in `engine_build`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localai import sysfs

Vendor = Literal["nvidia", "amd", "intel", "apple"]

_PCI_VENDORS: dict[str, Vendor] = {"10de": "nvidia", "1002": "amd", "8086": "intel"}
_LABELS: dict[Vendor, str] = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
_PCI_NAMES = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `memory_bytes` is its own memory, on Apple silicon the machine's; None where the kernel does not say.

    `driver` is the kernel driver bound to it, '' for none or unknown.
    """

    vendor: Vendor
    name: str
    memory_bytes: int | None
    how_found: Literal["pci", "nvidia driver", "drm", "wsl", "platform"]
    driver: str = ""


def find(root: Path) -> tuple[Gpu, ...]:
    """GPUs of a Linux machine under the file system root `root`, in bus order."""
    by_slot = dict(_on_pci(root))
    for slot, name in _nvidia_names(root).items():
        by_slot.setdefault(slot, Gpu("nvidia", name, None, "nvidia driver", "nvidia"))
    for slot, gpu in _on_drm(root):
        by_slot.setdefault(slot, gpu)
    if not by_slot and (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        by_slot["wsl"] = Gpu("nvidia", "NVIDIA GPU of the Windows host", None, "wsl", "dxg")
    return tuple(gpu for _, gpu in sorted(by_slot.items()))


def _on_pci(root: Path) -> Iterator[tuple[str, Gpu]]:
    devices = root / "sys/bus/pci/devices"
    for place in sorted(devices.iterdir()) if devices.is_dir() else ():
        vendor = _PCI_VENDORS.get(sysfs.text(place / "vendor").removeprefix("0x").lower())
        if vendor and sysfs.text(place / "class").startswith("0x03"):
            yield place.name, _pci_gpu(root, place, vendor)


def _pci_gpu(root: Path, place: Path, vendor: Vendor) -> Gpu:
    driver = sysfs.pairs(sysfs.text(place / "uevent"), "=").get("DRIVER", "")
    name = _nvidia_names(root).get(place.name) if vendor == "nvidia" else sysfs.text(place / "product_name")
    if not name:
        ids = [sysfs.text(place / field).removeprefix("0x").lower() for field in ("vendor", "device")]
        name = _listed_name(root, *ids) or f"GPU {ids[0]}:{ids[1]}"
    if not name.startswith(_LABELS[vendor]):
        name = f"{_LABELS[vendor]} {name}"
    return Gpu(vendor, name, sysfs.number(place / "mem_info_vram_total"), "pci", driver)


def _nvidia_names(root: Path) -> dict[str, str]:
    """PCI slot to model name, as NVIDIA's kernel driver lists them."""
    gpus = root / "proc/driver/nvidia/gpus"
    found = {}
    for place in gpus.iterdir() if gpus.is_dir() else ():
        facts = sysfs.pairs(sysfs.text(place / "information"), ":")
        found[place.name] = facts.get("Model", "NVIDIA GPU")
    return found


def _on_drm(root: Path) -> Iterator[tuple[str, Gpu]]:
    """Cards that the display subsystem knows: those of a board (Tegra), or with the PCI tree hidden by a container."""
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*")):
        facts = sysfs.pairs(sysfs.text(card / "device/uevent"), "=")
        vendor = _PCI_VENDORS.get(facts.get("PCI_ID", "").partition(":")[0].lower())
        compatible = facts.get("OF_COMPATIBLE_0", "")
        if vendor:
            memory = sysfs.number(card / "device/mem_info_vram_total")
            name = f"{_LABELS[vendor]} GPU {facts['PCI_ID'].lower()}"
            yield facts.get("PCI_SLOT_NAME", card.name), Gpu(vendor, name, memory, "drm", facts.get("DRIVER", ""))
        elif compatible.startswith("nvidia,"):
            yield card.name, Gpu("nvidia", f"NVIDIA {compatible[7:]}", None, "drm", facts.get("DRIVER", ""))


def _listed_name(root: Path, vendor: str, device: str) -> str:
    """The device's name in the system's list of PCI ids; the part in brackets is the one on the box."""
    listing = next((found for path in _PCI_NAMES if (found := sysfs.text(root / path))), "")
    _, _, section = f"\n{listing}".partition(f"\n{vendor}  ")
    for line in section.splitlines()[1:]:
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith("\t"):
            break
        if line.startswith(f"\t{device}  "):
            name = line.strip().removeprefix(device).strip()
            return name[name.find("[") + 1 : -1] if name.endswith("]") else name
    return ""
