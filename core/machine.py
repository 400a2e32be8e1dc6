"""A figure's birth certificate: the machine, the versions and the commit that it was measured with."""
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "timm", "lightly", "stable-pretraining", "kornia")


def hardware() -> dict:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text()
        names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
        cpu = f"{names[0] if names else cpu}{', AMX' if 'amx_bf16' in info else ''}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores(), "gpu": gpu, "threads": torch.get_num_threads()}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Python's and those of the packages that are installed."""
    return {"python": platform.python_version()} | {name: v for name in packages if (v := installed(name))}


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command() -> str:
    """This process's, as it was typed: the module's name is in `__main__`'s spec."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return " ".join(["python -m", spec.name if spec else sys.argv[0], *sys.argv[1:]])


def certificate(seeds: Sequence[int], packages: tuple[str, ...] = PACKAGES) -> dict:
    """What a kept figure must name."""
    return {"command": command(), "seeds": list(seeds), "code": code(), "hardware": hardware(), "versions": versions(packages)}


def code() -> str:
    """The commit that is measured; a + says that files have changed since."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False).stdout
    return (commit or "unknown") + ("+" if changed else "")
