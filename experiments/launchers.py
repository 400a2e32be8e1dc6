"""Where cells run: as processes of this machine, or as jobs of a SLURM cluster."""
import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from core import signals, slurm, sweep
from core.errors import RunError, Stopped
from experiments.cells import Cell, State, python_path, run_cell

RETRY_AFTER = 2.0  # seconds until a cell that another runner holds is looked at again
POLL = 5.0  # seconds between looks at SLURM
PATIENCE = 120.0  # seconds that a tool may take to save and end; in a job: until its time is over
LOOK = 0.2  # seconds between looks at a process


class Launcher(Protocol):
    size: float  # cells at a time
    retry_after: float
    stopping: bool

    def start(self, cell: Cell) -> Future: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class LocalLauncher:
    """Cells as processes of this machine, `parallel` at a time: one a GPU, or so many that share the cores."""

    def __init__(self, parallel: int, gpus: Sequence[str]):
        self.gpus, self.size, self.retry_after = list(gpus), parallel or len(gpus) or 1, RETRY_AFTER
        self.pool, self.free, self.lock = ThreadPoolExecutor(self.size), list(range(self.size)), threading.Lock()
        self.processes: dict[int, subprocess.Popen] = {}
        self.stopping = False

    def start(self, cell: Cell) -> Future:
        return self.pool.submit(self._run, cell)

    def _run(self, cell: Cell) -> State:
        from core.machine import cores

        with self.lock:
            slot = self.free.pop()
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // self.size)))}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]

        def started(process: subprocess.Popen) -> None:
            self.processes[slot] = process
            if self.stopping:
                process.terminate()

        try:
            return State.STOPPED if self.stopping else run_cell(cell, environment, started)
        finally:
            with self.lock:
                self.processes.pop(slot, None)
                self.free.append(slot)

    def stop(self) -> None:
        """Ask every tool to save and end. One that does not end within PATIENCE hangs, and is killed."""
        self.stopping = True
        for process in list(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        timer = threading.Timer(PATIENCE, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        for process in list(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def close(self) -> None:
        self.pool.shutdown()


class SlurmJob:
    """A cell as a job of submitit. When the job is preempted, the tool saves and the job is queued again."""

    def __init__(self):
        self.process: subprocess.Popen | None = None

    def __call__(self, cell: Cell) -> State:
        slurm.leave_to_tool()
        state = run_cell(cell, {}, lambda process: setattr(self, "process", process))
        if state is State.STOPPED:
            slurm.settle()
            if slurm.requeue():  # this job continues, or was cancelled; after a result the runner would submit another
                raise SystemExit(Stopped.code)
        return state

    def checkpoint(self, cell: Cell):
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self._end(self.process)
        return DelayedSubmission(SlurmJob(), cell)

    def _end(self, process: subprocess.Popen) -> None:
        """The tool saves and ends, or is killed while there is time to queue the job again.

        Not by wait(): this is a signal's handler, in the thread that waits in `run_cell` and holds that lock.
        """
        end = time.monotonic() + slurm.NOTICE / 2
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended
            os.kill(process.pid, signal.SIGTERM)
            while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > end:
                    os.kill(process.pid, signal.SIGKILL)
                time.sleep(LOOK)


class SlurmLauncher:
    """Cells as jobs of a SLURM cluster, by submitit.  settings: its parameters, such as {"slurm_partition": "gpu"}; cluster:
    submitit's name of what replaces SLURM in tests.  Raises ValueError.
    """

    def __init__(self, settings: dict, cluster: str = "slurm"):
        import submitit

        os.environ["PYTHONPATH"] = python_path()  # jobs inherit it
        self.size = math.inf  # SLURM queues
        self.poll, self.retry_after = (POLL, 60.0) if cluster == "slurm" else (0.1, RETRY_AFTER)
        jobs = Path("runs") / "cells" / "jobs"
        try:
            self.executor = submitit.AutoExecutor(folder=jobs, cluster=cluster, slurm_max_num_timeout=slurm.REQUEUES)
            minutes = slurm.longest(settings.get("slurm_partition")) if cluster == "slurm" else slurm.DAY
            ours = {"timeout_min": minutes, "slurm_signal_delay_s": slurm.NOTICE, "name": "reproduce"}
            self.executor.update_parameters(**ours | settings)
        except (RuntimeError, NameError, TypeError, AssertionError) as error:  # no srun; an unknown parameter or wrong value
            raise ValueError(f"launcher=slurm: {' '.join(str(error).split())[:300]}") from error
        self.jobs: list = []
        self.stopping = False

    def start(self, cell: Cell) -> Future:
        try:
            job, future = self.executor.submit(SlurmJob(), cell), Future()
        except Exception as error:  # submitit puts sbatch's message into exceptions of its own
            raise ValueError(f"launcher=slurm: the job was not taken: {sweep.reason(str(error))}") from error
        self.jobs.append(job)
        threading.Thread(target=self._watch, args=(job, future), daemon=True).start()
        return future

    def _watch(self, job, future: Future) -> None:
        while not sweep.ended(job, force=self.stopping):  # unforced, submitit asks less and less often
            time.sleep(min(self.poll, 1.0) if self.stopping else self.poll)
        try:
            if self.stopping and not job.paths.result_pickle.exists():
                future.set_result(State.STOPPED)
            elif reason := sweep.failure(job):
                future.set_exception(RunError(reason))
            else:
                future.set_result(job.result())
        except Exception as error:  # a result that cannot be read
            future.set_exception(error)

    def stop(self) -> None:
        self.stopping = True
        for job in self.jobs:
            job.cancel(check=False)

    def kill(self) -> None:
        pass  # SLURM does

    def close(self) -> None:
        pass


@contextlib.contextmanager
def stopping_signals(launcher: Launcher):
    """Signals ask every tool to save and end, which the runner's loop does; a second Ctrl-C kills the tools."""
    try:
        with signals.deferred():
            yield
            signals.answered()
    except KeyboardInterrupt:
        launcher.kill()
        raise
