"""Run a function on several Gloo processes of this machine, as a run's own processes are."""
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Processes fork from a server that has imported torch once: each starts in milliseconds, with nothing initialised.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "timm", "core.processes", "torch.distributed.launcher.api"])


def _process(function: Callable, arguments: tuple) -> multiprocessing.Process:
    """A process to start. The server it will fork from must find our packages, and our ssl, before the standard ones."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    multiprocessing.forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return _context.Process(target=function, args=arguments, daemon=True)


def on(size: int, function: Callable, *arguments, timeout: float = 100) -> list:
    """function(*arguments) on each of `size` processes in `session("cpu")`  → what each returned.

    function is a module's own (it is sent by name). The first to fail ends the others; its error is raised here.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        start = [_process(_one, (rank, size, port, folder, function, arguments)) for rank in range(size)]
        for process in start:
            process.start()
        _until_all_end(start, time.monotonic() + timeout)
        outcomes = [_outcome(Path(folder, str(rank))) for rank in range(size)]
    failed = sorted((when, rank, text) for rank, (when, text, _) in enumerate(outcomes) if text)
    if failed:
        raise RuntimeError(f"process {failed[0][1]} of {size} failed:\n{failed[0][2]}")
    return [value for _, _, value in outcomes]


def _until_all_end(processes: list, deadline: float) -> None:
    left = list(processes)
    while left and all(p.exitcode in (0, None) for p in processes) and time.monotonic() < deadline:
        wait([p.sentinel for p in left], 1)
        left = [p for p in left if p.exitcode is None]
    for process in processes:
        process.join(1 if left else None)  # the others of a failed one notice; if not, they are ended
        process.kill()
        process.join()


def _outcome(path: Path) -> tuple[float, str, object]:
    if not path.exists():
        return float("inf"), "ended without a word, or did not end in time", None
    return pickle.loads(path.read_bytes())


def _one(rank: int, size: int, port: int, folder: str, function: Callable, arguments: tuple) -> None:
    from core.processes import session

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with session("cpu"):
        try:
            outcome = time.time(), "", function(*arguments)
        except BaseException:
            outcome = time.time(), traceback.format_exc(), None  # before the others lose their connection to us
            raise SystemExit(1) from None
        finally:
            temporary = Path(folder, f".{rank}")
            temporary.write_bytes(pickle.dumps(outcome))
            temporary.rename(Path(folder, str(rank)))


def forked(function: Callable, *arguments, timeout: float = 100) -> tuple[int, str]:
    """function(*arguments) → exit code, in a process of its own; and what that process said on stderr."""
    with tempfile.NamedTemporaryFile() as said:
        process = _process(_redirected, (said.name, function, arguments))
        process.start()
        process.join(timeout)
        ended = process.exitcode
        process.kill()
        process.join()
        assert ended is not None, f"did not end within {timeout} s: {said.read().decode()}"
        return ended, said.read().decode()


def _redirected(path: str, function: Callable, arguments: tuple) -> None:
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    raise SystemExit(function(*arguments))
