"""A job of SLURM, from inside: how it stands, and how it gets back into the queue. Elsewhere everything here says so."""
import os
import re
import signal
import subprocess

from core import signals

DAY = 24 * 60  # minutes that a job may take where nobody says otherwise
REQUEUES = 100  # times that a job which ran out of time is queued again
NOTICE = 120  # seconds before the time limit at which submitit's signal comes: a step and a save


def answer(*command: str) -> str | None:
    """What a command of SLURM prints; None where it fails or there is none."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def state(job: str) -> str | None:
    """As "RUNNING" or "CANCELLED"; None where SLURM knows no such job."""
    found = re.search(r"\bJobState=(\w+)", answer("scontrol", "show", "job", "-o", job) or "")
    return found[1] if found else None


def longest(partition: str | None) -> int:
    """Minutes that a job may ask for: a day, or the partition's limit where that is less: asking for more waits for ever."""
    for line in (answer("sinfo", "-h", "-o", "%P %l") or "").splitlines():
        name, _, limit = line.partition(" ")
        found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):\d+", limit.strip())
        if found and (name == partition or (partition is None and name.endswith("*"))):
            days, hours, minutes = (int(part or 0) for part in found.groups())
            return min(DAY, (days * 24 + hours) * 60 + minutes)
    return DAY


def requeue() -> bool:
    """Queue this job again, whose work a signal has stopped and saved.  → does it end here without a result?

    One job stays one job: SLURM itself queues what it preempts, and a job that somebody cancelled stays cancelled. False
    where there is no SLURM, or where it does not allow it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or (found := state(job)) is None:
        return False
    if found == "RUNNING":
        return answer("scontrol", "requeue", job) is not None
    return True


def leave_to_tool() -> None:
    """Signals that submitit does not handle are for the tool, which this process waits for: SLURM sends them to every process
    of a step, and this one would die while the tool saves. No SIG_IGN: the tool would inherit it.
    """
    for number in signals.STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, lambda number, frame: None)


def settle() -> None:
    """No further signal of submitit's queues this job again: that is done, or not to be done."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
