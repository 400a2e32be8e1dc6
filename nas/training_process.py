"""Heartbeats of a trial's training, and its training on several processes."""
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core import cli
from core.errors import RunError, Stopped
from core.guard import end_with_parent
from core.settings import PretrainSettings
from nas.lease import STOPPED
from nas.retry import StorageError
from nas.store import LeaseLost

PATIENCE = 120.0  # seconds that a training may take to save and end
STARTUP_SECONDS = 1800  # the longest that a training may take to its first step


class StartupHeartbeat:
    """Heartbeats from a thread while images are listed and processes start, when there are no steps yet. Not for longer than
    `STARTUP_SECONDS`: a training may hang there too.
    """

    def __init__(self, heartbeat: Callable[[], None]):
        self.heartbeat, self.over = heartbeat, threading.Event()

    def __enter__(self) -> "StartupHeartbeat":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.over.set()

    def _run(self) -> None:
        end = time.monotonic() + STARTUP_SECONDS
        with contextlib.suppress(Stopped, LeaseLost, StorageError):  # the main thread meets them too
            while not self.over.wait(0.5) and time.monotonic() < end:
                self.heartbeat()


class HeartbeatListener:
    """A listener of a run (core/run.py): each step is a heartbeat, and ends the start."""

    def __init__(self, heartbeat: Callable[[], None], startup: StartupHeartbeat):
        self.heartbeat, self.startup = heartbeat, startup

    def tick(self, step: int) -> None:
        self.startup.over.set()
        self.heartbeat()

    def log(self, step: int, row: dict) -> None:
        pass

    def close(self) -> None:
        pass


def run_processes(module: str, settings: PretrainSettings, out: Path, on_progress: Callable[[int], None]) -> None:
    """Train on several processes, by a command of its own.  on_progress: called when the file of its figures has grown

    Raises Stopped, RunError.
    """
    log, metrics = out.with_suffix(".log"), out / "metrics.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        command = [sys.executable, "-m", module, *cli.save(settings, out.with_suffix(".settings.json"))]
        process = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=end_with_parent)
        try:
            _watch(process, metrics, on_progress)
        finally:
            _end(process)
    if process.returncode == Stopped.code:
        raise Stopped(STOPPED)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise RunError(f"{settings.devices} processes ended with code {process.returncode}: {lines[-1]}")


def _watch(process: subprocess.Popen, metrics: Path, on_progress: Callable[[int], None]) -> None:
    size = _size(metrics)
    while process.poll() is None:
        time.sleep(0.5)
        if (now := _size(metrics)) != size:
            size = now
            on_progress(size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # it hangs
            process.kill()
            process.wait()
