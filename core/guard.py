"""How a process of a run ends: which line it leaves, and with which code."""
import contextlib
import ctypes
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from core import signals
from core.errors import RunError, Stopped
from core.world import environment

LAUNCHED = "NOLABEL_LAUNCHED"  # in processes that `launch` started, which reports their errors: a file that says "reported"
RESUMES = "the same command resumes from the last save"


def lost_connection(message: str) -> bool:
    """Does it tell of another process's end?"""
    signs = ("connection closed", "connection reset", "connection refused", "broken pipe", "remote process exited")
    signs += ("timed out waiting",)
    return any(sign in message.lower() for sign in signs)


def end_with_parent() -> None:
    """This process gets SIGTERM, and so saves and ends, when the one that started it is killed. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; kept by exec


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def run_guarded(run: Callable[[], int], describe: Callable[[ValueError], str] = one_line) -> int:
    """Run as one process among others: an expected failure is one line, printed by whoever is in charge of printing.

    describe: a mistake of the user's → its line.
    """
    try:
        return run()
    except (Stopped, signals.StopRequest) as stopped:
        return _stopped(stopped)
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        report_error(f"error: {describe(error)}")
        return 2
    except RunError as error:
        report_error(f"error: {one_line(error)}")
        return error.code
    except Exception as error:
        if not lost_connection(traceback.format_exc()) or (environment() or (0, 1))[1] == 1:
            report_error(traceback.format_exc())
            return 1
        if number := signals.requested():  # the others were faster
            return _stopped(signals.StopRequest(number))
        why = one_line(error)[:160]
        report_error(f"error: another process died or was stopped (connection closed: {why}); {RESUMES}")
        time.sleep(2)  # whoever ends first is blamed: let it be the process that failed, not this one
        return 1


def _stopped(why: BaseException) -> int:
    if (environment() or (0,))[0] == 0:  # all stop at the same step
        signals.say(why)
        if os.environ.get(LAUNCHED):
            Path(os.environ[LAUNCHED]).touch()
    return Stopped.code


def report_error(message: str) -> None:
    """To the launcher that started this process, through the file it reads; else to the terminal."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if os.environ.get(LAUNCHED) and path:
        details = {"message": message, "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": message}}
        Path(path).write_text(json.dumps({"message": details}))
    else:
        signals.say(message)
