"""Provenance of a figure: the machine, the versions and the commit that it was measured with."""
import contextlib
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

GIT_SECONDS = 20.0  # after which a git that does not answer (a stuck network mount) counts as none
CGROUP = Path("/sys/fs/cgroup")
_called: ContextVar[str] = ContextVar("called", default="")  # see called_as
PACKAGES = ("torch", "torchvision", "timm", "lightly", "stable-pretraining", "kornia")


def hardware() -> dict:
    import torch  # here, so that who only counts cores does not load it

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text()
        names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
        cpu = f"{names[0] if names else cpu}{', AMX' if 'amx_bf16' in info else ''}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores(), "gpu": gpu, "threads": torch.get_num_threads()}


def processors() -> dict:
    """Names of the CPU and the GPU: of `hardware` what does not depend on the process."""
    return {name: value for name, value in hardware().items() if name in ("cpu", "gpu")}


def cores() -> int:
    """Number of cores that this process may use: its affinity, where the system has one, and its container's CPU quota."""
    mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()  # macOS and the BSDs have none
    usable, quota = len(mask) or os.cpu_count() or 1, cpu_quota()
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Cores' worth of time that a container's cgroup (version 2 or 1) allows; None where it sets no limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 < float(period) else None
    except (OSError, ValueError):  # no such files, or "max"
        return None


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Python's and those of the packages that are installed."""
    return {"python": platform.python_version()} | {name: v for name in packages if (v := installed(name))}


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def called_as(module: str, arguments: Sequence[str]) -> Iterator[None]:
    """Inside, `command` is that of a tool that Python called in place of the command line."""
    token = _called.set(" ".join(["python -m", module, *arguments]))
    try:
        yield
    finally:
        _called.reset(token)


def command() -> str:
    """This process's, as it was typed: the module's name is in `__main__`'s spec."""
    if called := _called.get():
        return called
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return " ".join(["python -m", spec.name.removesuffix(".__main__") if spec else sys.argv[0], *sys.argv[1:]])


def provenance_of(seeds: Sequence[int], packages: tuple[str, ...] = PACKAGES) -> dict:
    """What a kept figure must name."""
    return {"command": command(), "seeds": list(seeds), "code": code(), "hardware": hardware(), "versions": versions(packages)}


def code() -> str:
    """The commit of this code, with a + where files have changed since; "unknown" where git cannot tell."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("+" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str:
    """What git prints about this checkout; "" where there is no git, no repository, or no answer."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
