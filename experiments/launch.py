"""Cells done in the order of their needs: here, on SLURM, or not at all but printed."""
import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from core import signals, slurm, sweep
from core.errors import RunError, Stopped
from experiments.cells import Cell, ordered, paths, perform

TRIES = 2  # of a cell in one run of the command
AGAIN = 2.0  # seconds until a cell that another runner has is looked at again
POLL = 5.0  # seconds between looks at SLURM
STOPS = 100  # times that a cell is begun again which somebody else stopped
PATIENCE = 120.0  # seconds that a tool may take to save and end; in a job: until its time is over
LOOK = 0.2  # seconds between looks at what runs


class Here:
    """Cells as processes of this machine, `parallel` at a time: one a GPU, or so many that share the cores."""

    def __init__(self, parallel: int, gpus: Sequence[str]):
        self.gpus, self.size, self.again = list(gpus), parallel or len(gpus) or 1, AGAIN
        self.pool, self.free, self.lock = ThreadPoolExecutor(self.size), list(range(self.size)), threading.Lock()
        self.processes: dict[int, subprocess.Popen] = {}
        self.stopping = False

    def start(self, cell: Cell) -> Future:
        return self.pool.submit(self._do, cell)

    def _do(self, cell: Cell) -> str:
        from core.machine import cores  # brings torch

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
            return "stopped" if self.stopping else perform(cell, environment, started)
        finally:
            with self.lock:
                self.processes.pop(slot, None)
                self.free.append(slot)

    def stop(self) -> None:
        """Every tool saves and ends; the same command goes on. One that does not end in PATIENCE hangs, and is killed."""
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


class Job:
    """A cell as a job of submitit. Where it is preempted, its tool saves, and the job is queued again."""

    def __init__(self):
        self.process: subprocess.Popen | None = None

    def __call__(self, cell: Cell) -> str:
        state = perform(cell, {}, lambda process: setattr(self, "process", process))
        if state == "stopped":
            slurm.settle()
            if slurm.requeue():  # the same job goes on, or was cancelled: a result would make the runner submit another
                raise SystemExit(Stopped.code)
        return state

    def checkpoint(self, cell: Cell):
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self._end(self.process)
        return DelayedSubmission(Job(), cell)

    def _end(self, process: subprocess.Popen) -> None:
        """Its tool saves and ends, or is killed while there is time to queue the job again.

        Not by wait(): a signal's handler is here, in the thread that waits in `perform` and holds that lock.
        """
        end = time.monotonic() + slurm.NOTICE / 2
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended
            os.kill(process.pid, signal.SIGTERM)
            while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > end:
                    os.kill(process.pid, signal.SIGKILL)
                time.sleep(LOOK)


class Cluster:
    """Cells as jobs of a SLURM cluster, by submitit.  settings: its parameters, such as {"slurm_partition": "gpu"}; cluster:
    submitit's word for what stands in SLURM's place, in tests.  Raises ValueError.
    """

    def __init__(self, settings: dict, cluster: str = "slurm"):
        import submitit

        os.environ["PYTHONPATH"] = paths()  # jobs inherit it
        self.size = math.inf  # the queue is SLURM's
        self.pause, self.again = (POLL, 60.0) if cluster == "slurm" else (0.1, AGAIN)
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
            job, future = self.executor.submit(Job(), cell), Future()
        except Exception as error:  # whatever sbatch says is in the message of an exception of submitit's
            raise ValueError(f"launcher=slurm: the job was not taken: {sweep.reason(str(error))}") from error
        self.jobs.append(job)
        threading.Thread(target=self._watch, args=(job, future), daemon=True).start()
        return future

    def _watch(self, job, future: Future) -> None:
        while not sweep.ended(job, force=self.stopping):  # unforced, submitit asks ever less often
            time.sleep(min(self.pause, 1.0) if self.stopping else self.pause)
        try:
            if self.stopping and not job.paths.result_pickle.exists():
                future.set_result("stopped")
            elif why := sweep.failure(job):
                future.set_exception(RunError(why))
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


def run(cells: Sequence[Cell], launcher: Here | Cluster, say: Callable[[str, Cell, int, int], None]) -> dict[str, str]:
    """Do these cells and what they need.  say(what, cell, done, of how many): told of each beginning and end.

    → id → "done", "failed", "blocked" (what it needs failed) or "stopped"
    """
    todo = {cell.id: cell for cell in urgent(cells)}
    ended = {id: "done" for id, cell in todo.items() if cell.done}
    tries: dict[str, int] = dict.fromkeys(todo, 0)
    stops: dict[str, int] = dict.fromkeys(todo, 0)
    running: dict[Future, Cell] = {}
    later: dict[str, float] = {}  # another runner has them: when to look again
    with _signals(launcher):
        while len(ended) < len(todo):
            if signals.requested() and not launcher.stopping:
                launcher.stop()
            at_work = {cell.id for cell in running.values()}
            for id, cell in todo.items():
                needs = [ended.get(needed.id) for _, needed in cell.needs]
                if id in ended or id in at_work:
                    continue
                if id in later and cell.done:  # by the other runner
                    ended[id] = "done"
                    say("done", cell, len(ended), len(todo))
                elif later.get(id, 0) > time.monotonic():
                    continue
                elif launcher.stopping:
                    ended[id] = "stopped"
                elif any(state in ("failed", "blocked", "stopped") for state in needs):
                    ended[id] = "blocked" if "stopped" not in needs else "stopped"
                    say(ended[id], cell, len(ended), len(todo))
                elif all(state == "done" for state in needs) and len(running) < launcher.size:
                    running[launcher.start(cell)] = cell
                    if id not in later:
                        say("begins", cell, len(ended), len(todo))
            finished, _ = wait(running, timeout=LOOK, return_when=FIRST_COMPLETED)
            if not running and len(ended) < len(todo):
                time.sleep(LOOK)  # until another runner is done
            for future in finished:
                cell = running.pop(future)
                state = _outcome(future, cell, launcher)
                tries[cell.id] += state == "failed"
                if state == "elsewhere":
                    later[cell.id] = time.monotonic() + launcher.again
                elif state == "failed" and tries[cell.id] < TRIES and not launcher.stopping:
                    say(f"failed ({cell.why}); again", cell, len(ended), len(todo))
                elif state == "stopped" and not launcher.stopping and stops[cell.id] < STOPS:
                    stops[cell.id] += 1  # somebody stopped the tool, not us: it goes on
                else:
                    ended[cell.id] = state
                    say(state, cell, len(ended), len(todo))
    launcher.close()
    return ended


def urgent(cells: Sequence[Cell]) -> list[Cell]:
    """These and what they need, first those that most minutes of work must wait for, their own among them."""
    all_of_them = ordered(cells)
    waiting = {cell.id: cell.minutes for cell in all_of_them}
    for cell in reversed(all_of_them):  # whatever needs a cell comes behind it
        for _, needed in cell.needs:
            waiting[needed.id] = max(waiting[needed.id], needed.minutes + waiting[cell.id])
    return sorted(all_of_them, key=lambda cell: -waiting[cell.id])


def _outcome(future: Future, cell: Cell, launcher: Here | Cluster) -> str:
    """What `perform` says; where it could not be asked, as when a job was lost, why is in the cell's log."""
    try:
        return future.result()
    except Exception as error:
        with open(cell.log, "a") as log:
            log.write(f"{error}\n" if isinstance(error, RunError) else f"{type(error).__name__}: {error}\n")
        return "stopped" if launcher.stopping else "failed"


@contextlib.contextmanager
def _signals(launcher):
    """A signal makes every tool save and end (asked for in the loop); a second Ctrl-C kills them."""
    try:
        with signals.deferred():
            yield
            signals.answered()
    except KeyboardInterrupt:
        launcher.kill()
        raise


def printed(cells: Sequence[Cell]) -> str:
    """The commands, each after those that it needs, for a shell."""
    return "\n".join(cell.text for cell in ordered(cells) if not cell.done) + "\n"
