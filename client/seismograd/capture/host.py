"""Where a process runs, told once when its run is opened: by this a bad node is recognised weeks later.

Everything here is a hint: what cannot be read is left out. Called from the sender's thread, never from training.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch

from seismograd.launch import LaunchEnvironment

# What the wire takes of one fact.
_MOST_CHARACTERS = 200
_DRIVER = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def host_facts(environment: LaunchEnvironment, root: Path = Path("/")) -> dict[str, str]:
    """Facts by name: processor, memory, versions, container and job; only those that are known.

    `root` is where `proc`, `sys` and `run` are.
    """
    sources: dict[str, Callable[[], object]] = {
        "platform": platform.platform,
        "cpu": lambda: _cpu(root),
        "cpu_count": _cpu_count,
        "cpu_limit": lambda: _cpu_limit(root),
        "memory_bytes": lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "memory_limit_bytes": lambda: _limit(root / "sys/fs/cgroup/memory.max"),
        "cuda": lambda: torch.version.cuda,
        "hip": lambda: torch.version.hip,
        "nccl": _nccl,
        "container": lambda: _container(root),
        "launcher": lambda: environment.launcher,
        "job": lambda: environment.job,
    }
    known = {name: _told(source) for name, source in sources.items()}
    return {name: text for name, text in known.items() if text}


def device_facts(device: torch.device, root: Path = Path("/")) -> tuple[str, str, str]:
    """Name, UUID (as nvidia-smi prints it) and driver version of the device; empty where unknown."""
    if device.type != "cuda":
        return _told(lambda: _cpu(root)) if device.type == "cpu" else "", "", ""
    properties = torch.cuda.get_device_properties(device)
    identifier = str(getattr(properties, "uuid", ""))
    if identifier and not identifier.startswith("GPU-"):
        identifier = f"GPU-{identifier}"
    return properties.name, identifier, _told(lambda: _driver(root))


def _told(source: Callable[[], object]) -> str:
    """One fact as text; empty when it is not known."""
    try:
        value = source()
    except (OSError, ValueError, RuntimeError, AttributeError, IndexError):
        return ""
    text = "" if value is None else " ".join(str(value).encode("ascii", "replace").decode().split())
    return "".join(character for character in text if character.isprintable())[:_MOST_CHARACTERS]


def _cpu(root: Path) -> str:
    for line in (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cpu_count() -> int | None:
    """Processors that this process may use, which is fewer than there are in most containers and jobs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_limit(root: Path) -> str | None:
    quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    return None if quota == "max" else f"{int(quota) / int(period):g}"


def _limit(path: Path) -> str | None:
    text = path.read_text(encoding="ascii").strip()
    return None if text == "max" else text


def _nccl() -> str | None:
    if not torch.cuda.is_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _driver(root: Path) -> str:
    """The driver as people speak of it ("550.54.15"); torch knows only which CUDA it could run."""
    found = _DRIVER.search((root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else ""


def _container(root: Path) -> str | None:
    kinds = {
        "kubernetes": "var/run/secrets/kubernetes.io",
        "docker": ".dockerenv",
        "podman": "run/.containerenv",
        "apptainer": ".singularity.d",
    }
    return next((kind for kind, mark in kinds.items() if (root / mark).exists()), None)
