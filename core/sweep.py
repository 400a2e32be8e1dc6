"""Sweeps of Hydra as jobs of a cluster: sane limits, where each job's log is, one line for each that fails."""
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from core import signals, slurm
from core.errors import RunError, Stopped

LAUNCHER = "hydra.launcher."
POLL = 2.0  # seconds between looks at the jobs
ENDED = ("CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def defaults(given: Mapping[str, str], name: str) -> list[str]:
    """Settings of Hydra's submitit launcher that the user did not give.  given: setting → its text; name: of the jobs"""
    match given.get("hydra/launcher"):
        case "submitit_slurm":
            minutes = slurm.longest(given.get(f"{LAUNCHER}partition"))
            ours = {"timeout_min": minutes, "max_num_timeout": slurm.REQUEUES, "signal_delay_s": slurm.NOTICE, "name": name}
        case "submitit_local":
            ours = {"timeout_min": slurm.DAY, "name": name}
        case _:
            ours = {}
    return [f"{LAUNCHER}{key}={value}" for key, value in ours.items() if LAUNCHER + key not in given]


def in_job() -> bool:
    """Is this process one of submitit's?"""
    return "SUBMITIT_EXECUTOR" in os.environ


def run_in_job(run: Callable[[], int]) -> int:
    """run(), so that a signal stops it as it would outside of submitit, and the job is queued again once.

    submitit's own handler raises wherever it is, which loses what was not saved; here it has its turn when all is saved.
    """
    requeue = signal.getsignal(signal.SIGUSR2)
    with signals.installed():
        try:
            code = run()
        except signals.StopRequest as stop:  # before the first step, as while torch is imported
            signals.say(stop)
            code = stop.code
        number = signals.requested()
        if number is None or code != Stopped.code:
            return code
        signals.settle()
        if number == signal.SIGUSR2 and callable(requeue):
            requeue(number, None)  # counts how often, and raises where that is enough
        slurm.requeue()
        raise SystemExit(code)


@contextlib.contextmanager
def submitted() -> Iterator[None]:
    """Inside, whatever Hydra's launcher submits is shown, waited for, and reported.  Raises RunError."""
    try:
        import submitit
    except ImportError:
        yield
        return
    before = submitit.AutoExecutor

    class Executor(before):
        def map_array(self, *arguments):
            try:
                jobs = super().map_array(*arguments)
            except Exception as error:  # sbatch's word is in the message of an exception of submitit's
                raise RunError(f"hydra/launcher: the jobs were not taken: {reason(str(error))}") from error
            wait(jobs)
            return jobs

    submitit.AutoExecutor = Executor
    try:
        yield
    finally:
        submitit.AutoExecutor = before


def wait(jobs: list) -> None:
    """Until all have ended.  Raises RunError, after a line for each that failed."""
    for job in jobs:
        signals.say(f"job {job.job_id}: its log is {job.task(0).paths.stderr}")
    left = " ".join(dict.fromkeys(job.job_id.split("_")[0] for job in jobs))
    signals.place(f"; the jobs run without this command: scancel {left} ends them")
    while not all(ended(job) for job in jobs):
        time.sleep(POLL)
    failed = [line for job in jobs if (line := failure(job.task(0)))]
    for line in failed[:-1]:
        signals.say(f"error: {line}")
    if failed:
        raise RunError(failed[-1])


def ended(job, force: bool = False) -> bool:
    """Has it ended?  Where SLURM keeps no accounts for sacct, scontrol says so.  force: ask SLURM now"""
    if job.done(force_check=force):
        return True
    return job.state.upper() == "UNKNOWN" and slurm.state(job.job_id) in ENDED


def failure(job) -> str | None:
    """Why it has no result, and where its log is; None where it has one."""
    log = job.paths.stderr
    text = log.read_text(errors="replace") if log.exists() else ""
    where = log if log.exists() else log.parent
    if job.paths.result_pickle.exists():
        error = job.exception() or _failed(job.result())
        return None if error is None else f"job {job.job_id}: {reason(text, str(error))} ({where})"
    state = job.state if job.state.upper() != "UNKNOWN" else slurm.state(job.job_id) or "ended without a result"
    why = f"{state}: {reason(text)}" if text and state.startswith("FAILED") else state
    return f"job {job.job_id}: {why} ({where})"


def _failed(result) -> BaseException | None:
    """What Hydra keeps of a run that raised, in place of its result."""
    return getattr(result, "_return_value", None) if getattr(getattr(result, "status", None), "name", "") == "FAILED" else None


def reason(text: str, otherwise: str = "") -> str:
    """Of a log: its last line that says error, else otherwise, else the last line. Those of srun itself come last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))]
    errors = [line.partition("error: ")[2] for line in own if "error: " in line]
    last = [line.strip() for line in otherwise.splitlines() if line.strip()]
    return " ".join(([*lines[-1:], *own[-1:], *last[-1:], *errors] or ["it left no word"])[-1].split())[:300]
