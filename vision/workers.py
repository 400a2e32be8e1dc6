"""Decoding processes: how they hand over batches, and how one that dies or hangs ends the run in one line."""
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from core.errors import RunError
from core.run import log_line
from core.signals import leave_to_parent

TIMEOUT = 1200  # seconds without a batch after which a loader counts as hung; other processes wait 1800 for this one
POLL = 5  # seconds between looks at the workers
TIMED_OUT = "DataLoader timed out"  # how torch's message begins
SHARED = Path("/dev/shm")  # where Linux keeps memory that processes share
WAY_OUT = "start again with fewer --workers, or --workers 0 (what was saved before is untouched: the same command resumes)"


class WorkerFailed(RunError):
    """A decoding process was killed, or does not answer."""


def shared_memory_short(needed: int) -> int | None:
    """Free bytes of shared memory, where they are fewer than needed; None where they suffice or there is no such place."""
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return None
    free = status.f_bavail * status.f_frsize
    return free if free < needed else None


def items(dataset: Dataset, workers: int, pin_memory: bool, forked: bool = True) -> Iterator[Any]:
    """The data set's items in their order, made by `workers` processes, or here: without any, or where none can be started.

    forked: processes are copies of this one; else of one that has only imported the packages, because a copy lacks the threads
    of an object store. Raises WorkerFailed in one line where a worker dies, lacks memory, or gives nothing for `TIMEOUT`
    seconds.
    """
    try:
        if workers:
            multiprocessing.Lock()  # fails where there are no semaphores: /dev/shm is missing
        iterator, processes = _started(dataset, workers, pin_memory, forked)
    except OSError as error:  # or no more processes or file descriptors
        if not workers:
            raise
        log_line(f"note: workers={workers} cannot be started ({error.strerror or error}): images are decoded in this process")
        iterator, processes = _started(dataset, 0, pin_memory, forked)
    try:
        while True:
            try:
                item = _next(iterator, processes)
            except StopIteration:
                return
            yield item
    finally:
        del iterator


def _started(dataset: Dataset, workers: int, pin_memory: bool, forked: bool) -> tuple[Iterator, list]:
    """The loader's iterator, and its processes."""
    context = None
    if workers and not forked:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vision.loaders", "vision.resize"])
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        timeout=POLL if workers else 0,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # its own: a restart must not move torch's global one
    )
    others = set(active_children())
    with _own_child_handler():
        iterator = iter(loader)
        _unregister(iterator)
    return iterator, [child for child in active_children() if child not in others]


@contextlib.contextmanager
def _own_child_handler():
    """Keep SIGCHLD's handler: torch's raises RuntimeError wherever the program is when a worker dies. `_next` looks instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def _unregister(iterator: Any) -> None:
    """Take its workers off torch's list, at which the handler that another loader of this process has set would look."""
    if getattr(iterator, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False  # as when torch itself takes them off


def _next(iterator: Iterator, processes: list) -> Any:
    """The next item; what torch raises about its workers, as one line."""
    waited = 0
    while True:
        try:
            return next(iterator)
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            text = str(error)
            if isinstance(error, (OSError, EOFError)):  # a worker that died while it handed over a batch is not yet buried
                wait([process.sentinel for process in processes], POLL)
            if text.startswith(TIMED_OUT) and waited < TIMEOUT and all(p.is_alive() for p in processes):
                waited += POLL
                continue
            if not processes or not (why := _failure(text, error, processes)):
                raise
            for process in processes:  # one that hangs in a system call does not react to SIGTERM
                process.kill()
            raise WorkerFailed(f"{why}; {WAY_OUT}") from error


def _failure(text: str, error: Exception, processes: list) -> str | None:
    """Why no item came, as text; None where the fault is not the workers'."""
    codes = [process.exitcode for process in processes if process.exitcode]
    if -signal.SIGBUS in codes or "Bus error" in text or "unable to allocate shared memory" in text or (
        "unable to write to file" in text and "torch_" in text
    ):
        return "a decoding worker found no shared memory (/dev/shm is full; in a container, --shm-size=8g makes it larger)"
    if "exited unexpectedly" in text or "killed by signal" in text or codes:
        number = -codes[0] if codes and codes[0] < 0 else 0
        how = f" by {signal.Signals(number).name}" if number else ""
        memory = ", as happens when memory runs out" if number in (0, signal.SIGKILL) else ""
        return f"a decoding worker was killed{how}{memory} (there are {len(processes)} workers)"
    if text.startswith(TIMED_OUT):
        return f"{len(processes)} decoding workers gave no batch for {TIMEOUT // 60} minutes (is the data's mount stuck?)"
    if isinstance(error, MemoryError) or "Cannot allocate memory" in text or "can't allocate memory" in text:
        return f"a decoding worker has no memory left (there are {len(processes)} workers)"
    if "Too many open files" in text:
        return "decoding workers cannot open more files (ulimit -n raises the limit)"
    return None
