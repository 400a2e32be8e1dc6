"""Workers by name: machine, process number, and a random part that tells a process from a later one of the same number."""
import hashlib
import os
import socket
import uuid
from pathlib import Path


def worker_name() -> str:
    """A new name for this process."""
    return f"{machine()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"


def machine() -> str:
    """This machine, and the space of process numbers that this process is in: a container has its own."""
    boot, pids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    place = f"{boot.read_text() if boot.exists() else ''}{pids.readlink() if pids.is_symlink() else ''}"
    return f"{socket.gethostname()}-{hashlib.sha256(place.encode()).hexdigest()[:6]}"


def pid_here(worker: str | None) -> int | None:
    """The worker's process number, where it is on this machine."""
    place, _, rest = (worker or "").partition(":")
    return int(rest.partition(":")[0]) if place == machine() else None


def process_ended(worker: str | None) -> bool:
    """Is it a process of this machine that has ended?"""
    pid = pid_here(worker)
    if pid is None or not Path("/proc/self").exists():
        return False
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"  # ended, and not yet collected by its parent
