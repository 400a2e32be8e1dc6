"""The worker processes of a search on this machine: started, watched, restarted and stopped."""
import os
import subprocess
import sys
import time
from pathlib import Path

from core import cli, training
from core.errors import RunError, Stopped
from core.machine import cores
from nas.settings import SearchSettings
from nas.study import TOOL

WORKER = "NOLABEL_SEARCH_WORKER"  # set in the environment of a worker: its number on this machine
MAX_RESTARTS = 20  # of workers that are killed


class WorkerFailed(RunError):
    """A worker ended with an error; its message is the worker's."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def usable_gpus(settings: SearchSettings) -> list[str]:
    return training.gpus() if settings.device in ("auto", "cuda") else []


def pool_size(settings: SearchSettings) -> int:
    """Workers on this machine: one a GPU, or one."""
    return settings.parallel or len(usable_gpus(settings)) or 1


def threads_of(settings: SearchSettings) -> int:
    """CPU threads of each worker on this machine."""
    return max(1, cores() // pool_size(settings))


class WorkerPool:
    """`parallel` processes that work on one study: one a GPU, or one."""

    def __init__(self, settings: SearchSettings):
        self.settings, self.folder = settings, cli.expand("runs") / "nas" / settings.study / "workers"
        self.gpus = usable_gpus(settings)
        self.size, self.threads = pool_size(settings), threads_of(settings)
        self.arguments = cli.save(settings, self.folder / f"{os.uname().nodename}.json")
        self.processes: dict[int, subprocess.Popen] = {}
        self.restarts = 0

    def start(self) -> None:
        for number in range(self.size):
            self._start(number)

    def _start(self, number: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {WORKER: str(number)}
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        with open(self.log(number), "ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", TOOL.module, *self.arguments], env=environment, stdout=log, stderr=log,
            )

    def log(self, number: int) -> Path:
        return self.folder / f"{os.uname().nodename}-{number}.log"

    def poll(self) -> bool:
        """Restart workers that were killed or preempted.  → have all ended?  Raises WorkerFailed where one failed."""
        codes = {number: process.poll() for number, process in self.processes.items()}
        for number, code in codes.items():
            if code is not None and (code < 0 or code == Stopped.code) and self.restarts < MAX_RESTARTS:
                self.restarts += 1
                self._start(number)
            elif code not in (None, 0):
                self.stop()
                raise WorkerFailed(self._last_line(number), max(code, 1))
        return all(code == 0 for code in codes.values())

    def _last_line(self, number: int) -> str:
        lines = self.log(number).read_text(errors="replace").strip().splitlines() or ["a worker ended without a message"]
        return f"{lines[-1].removeprefix('error: ')} ({self.log(number)})"

    def kill(self, pid: int) -> None:
        """A worker that hangs."""
        for process in self.processes.values():
            if process.poll() is None and process.pid == pid:
                process.kill()

    def stop(self) -> None:
        """Ask all to save and release their trials. One that has not ended when its lease expires hangs, and is killed."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + 2 * self.settings.interval
        for process in self.processes.values():
            try:
                process.wait(max(0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            except KeyboardInterrupt:  # a second Ctrl-C
                for other in self.processes.values():
                    other.kill()
                raise
