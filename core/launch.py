"""Starting the processes of a run on this machine, by torch's elastic launcher."""
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from core import signals
from core.errors import Stopped
from core.guard import LAUNCHED, lost_connection
from core.machine import cores

UNSAVED = "nothing new was saved: the same command resumes from the last save"
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # seconds from the signal to the kill: time for a step and a save


def launch(module: str, arguments: list[str], devices: int) -> int:
    """Run `python -m module arguments` as `devices` processes by torch's elastic launcher.  Returns the exit code.

    A process that dies ends them all within seconds; its error is shown once, by us.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // devices)))
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGQUIT")  # the others stay with core/signals.py
    os.environ.setdefault(SHUTDOWN, "120")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        run_id=str(os.getpid()),
        max_restarts=0,
        monitor_interval=0.1,
    )
    with signals.installed(), tempfile.TemporaryDirectory() as folder:
        signals.patience(float(os.environ[SHUTDOWN]) + 10)
        reported = Path(folder, "reported")
        os.environ[LAUNCHED] = str(reported)
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except (SignalException, signals.StopRequest) as stop:
            signals.settle()
            if not reported.exists():
                number = stop.number if isinstance(stop, signals.StopRequest) else stop.sigval
                signals.say(f"stopped by {signal.Signals(number).name}; {UNSAVED}")
            return Stopped.code
        except ChildFailedError as error:
            first = min(error.failures.values(), key=_blame)
            if first.exitcode != Stopped.code:
                signals.say(_describe(first))
            elif not reported.exists():
                signals.say(f"stopped by a signal to process {first.local_rank}; {UNSAVED}")
            return first.exitcode if first.exitcode > 0 else 1
    return 0


def _blame(failure) -> tuple[bool, int]:
    """Who failed first: a process that lost its connection is a victim of another."""
    return failure.exitcode == -signal.SIGTERM or lost_connection(str(failure.message)), failure.timestamp


def _describe(failure) -> str:
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return f"error: process {failure.local_rank} was killed ({name}); the same command continues from the last save"
    message = failure.message
    if str(message).startswith("To enable traceback"):  # torch's way to say that nothing is known
        return f"error: process {failure.local_rank} ended with code {failure.exitcode}"
    return message.get("message", str(message)) if isinstance(message, dict) else str(message)
