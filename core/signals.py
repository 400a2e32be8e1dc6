"""Signals that ask a process to stop: which they are, how they interrupt it, and with which code it ends.

Where nothing would be lost, the first one raises StopRequest in the main thread, at once. Inside `deferred()` (training,
writing a file, supervising other processes) it is only recorded: whoever is inside asks `requested()` and ends in order. A
second Ctrl-C raises KeyboardInterrupt anywhere. This file imports no torch, so that handlers are there before anything slow
is loaded.
"""
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from core.errors import Stopped

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")  # USR2: submitit's; HUP: the terminal was closed
STOPPING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
CODES = (Stopped.code, 130, *(-n for n in STOPPING), *(128 + n for n in STOPPING))  # of a stopped tool; 128: by a shell
PATIENCE = 60.0  # seconds that a process may take to end where nothing is deferred
UNANSWERED = 30.0  # seconds without a step after which other processes count as hung; longer where steps take longer


class StopRequest(KeyboardInterrupt):
    """A signal asked this process to stop, and nothing is lost by it. No Exception: nothing on the way may swallow it."""

    code = Stopped.code

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}{_state.place}"


class _State:
    """Of this process."""

    def __init__(self):
        self.number: int | None = None  # of the first signal that asked to stop
        self.depth = 0  # of deferred()
        self.raised = False
        self.place = "; nothing is lost: the same command starts again"
        self.before: dict = {}  # the handlers that were there
        self.patience, self.alive = PATIENCE, 0.0
        self.pipe: tuple[socket.socket, socket.socket] | None = None


_state = _State()


def requested() -> int | None:
    """The signal that asked this process to stop."""
    return _state.number


def answered() -> None:
    """The signal is taken care of: StopRequest is not raised for it any more."""
    _state.raised = True


def place(text: str) -> None:
    """What StopRequest's line says after the signal's name, from here on: where it came, and what the same command does."""
    _state.place = text


# ---- handlers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def installed(module: str = "") -> Iterator[None]:
    """Handle the signals inside. Does nothing inside another `installed`, or in a thread.

    module: a tool's. Where this process is `python -m module`, signals are ignored afterwards, because its exit code is
    decided; else the handlers that were there come back.
    """
    global _state
    if _state.before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state = _State()
    for number in STOPPING:
        if number != getattr(signal, "SIGHUP", 0) or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            _state.before[number] = signal.signal(number, _handle)
    state = _state
    try:
        yield
    finally:
        if state.pipe:
            signal.set_wakeup_fd(-1)
            state.pipe[1].close()
        if module and getattr(sys.modules["__main__"].__spec__, "name", "").removesuffix(".__main__") == module:
            settle()
        else:
            for number, handler in state.before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            _state = _State()


def settle() -> None:
    """This process is ending, and its exit code is decided: later signals do nothing."""
    for number in _state.before:
        signal.signal(number, _ignore)  # no SIG_IGN: processes that this one starts would inherit it


def _ignore(number, frame) -> None:
    pass


def _handle(number, frame) -> None:
    state = _state
    if number == signal.SIGINT and state.number is not None:
        raise KeyboardInterrupt
    if state.number is None:
        state.number = number
    if not state.depth:
        _interrupt(state)


def _interrupt(state: _State) -> None:
    """Raise StopRequest, once. Where something swallows it, the process ends nevertheless."""
    if not state.raised:
        state.raised = True
        timer = threading.Timer(state.patience, _end, (state,))
        timer.daemon = True
        timer.start()
        raise StopRequest(state.number)


def _end(state: _State) -> None:
    if state is _state and not state.depth:
        say(StopRequest(state.number))
        os._exit(Stopped.code)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, signals are recorded and interrupt nothing. Afterwards one that came does what it would have done, unless another
    exception is under way or it is `answered`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread
        return
    alone = not _state.before
    with installed():
        state = _state
        state.depth += 1
        try:
            yield
        finally:
            state.depth -= 1
        late = state.number is not None and not state.depth and not state.raised
        if late and not alone:
            _interrupt(state)
    if late and alone:
        signal.raise_signal(state.number)  # to the handler of whoever uses this as a library


def _in_child() -> None:
    """A forked child, such as a DataLoader's worker, leaves it to its parent to stop."""
    global _state
    if _state.before:
        if _state.pipe:
            signal.set_wakeup_fd(-1)
        for number in _state.before:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else _ignore)
        _state = _State()


os.register_at_fork(after_in_child=_in_child)


def leave_to_parent(worker: int = 0) -> None:
    """In a DataLoader's worker: only the parent's own SIGTERM ends it. A scheduler sends signals to every process of a job,
    and a worker that died of one would end the training before it has saved.
    """
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


# ---- processes that wait for each other -----------------------------------------------------------------------------


def watch() -> None:
    """End this process after a signal though its main thread hangs, as in a collective call that another never joins."""
    state = _state
    if not state.before or state.pipe or threading.current_thread() is not threading.main_thread():
        return
    state.pipe = socket.socketpair()
    for end in state.pipe:
        end.setblocking(False)
    signal.set_wakeup_fd(state.pipe[1].fileno(), warn_on_full_buffer=False)
    state.pipe[0].setblocking(True)
    threading.Thread(target=_watch, args=(state, state.pipe[0]), daemon=True).start()


def alive(longest: float) -> None:
    """A step has ended.  longest: seconds that one has taken so far"""
    patience(max(UNANSWERED, 4 * longest))


def patience(seconds: float = PATIENCE) -> None:
    """How long the end may take from here on."""
    _state.alive, _state.patience = time.monotonic(), seconds


def _watch(state: _State, pipe: socket.socket) -> None:
    with pipe:
        while received := pipe.recv(1):  # the handler itself may never run
            if received[0] in STOPPING:
                break
        else:
            return
    start = time.monotonic()
    while state is _state:
        time.sleep(0.2)
        if time.monotonic() - max(start, state.alive) > state.patience:
            name = signal.Signals(received[0]).name
            say(f"stopped by {name}, but another process does not answer: nothing more was saved; the same command resumes "
                "from the last save")
            os._exit(Stopped.code)


def say(text: object) -> None:
    """A line on stderr, if that is still there."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
