"""Files that are whole or not there, and last.pt: all that a run needs to resume as if it had never stopped."""
import contextlib
import errno
import io
import os
import pickle
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from core import signals
from core.errors import DiskFull, RunError
from core.safetensors_file import write_to

FORMAT = 1
HOLDS = {"format", "step", "method", "optimizer", "config", "extra"}
ABANDONED = 24 * 3600.0  # seconds
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN = (errno.EIO, errno.ESTALE)  # a disk or a network mount that fails


def write(path: str | Path, data: bytes | str) -> None:
    """Write a file atomically."""
    with signals.deferred(), writing(path) as file:
        file.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)  # paths may not be UTF-8


def write_tensors(path: str | Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    with signals.deferred(), writing(path) as file:
        write_to(file, tensors, header)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write atomically: a temporary one beside it, fsync, rename. A reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFull(f"no room to write {path}; what was there before is untouched") from error
        if isinstance(error, OSError) and error.errno in BROKEN:
            raise RunError(f"{path} cannot be written: {error.strerror}; look at the disk or the network mount") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can (CIFS and some FUSE mounts cannot)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to it and not list it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what `write` left behind when its process was killed; files that a living process is writing stay."""
    for leftover in folder.glob(".*.tmp"):
        host, _, process = leftover.name.removesuffix(".tmp").rpartition(".")
        here = host.endswith(f".{socket.gethostname()}")
        if process.isdigit() and not (here and _alive(int(process))) and (here or _old(leftover)):
            leftover.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it is another user's
    return True


def _old(path: Path) -> bool:
    """Too old to be in writing: of another machine's process nothing else can be known."""
    try:
        return time.time() - path.stat().st_mtime > ABANDONED
    except OSError:
        return False


def save(path: str | Path, *, step: int, method: dict, optimizer: dict, config: dict, extra: dict) -> None:
    state = {
        "format": FORMAT,
        "step": step,
        "method": method,
        "optimizer": optimizer,
        "config": config,
        "extra": extra,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getbuffer())


def load(path: str | Path) -> dict:
    """last.pt's content, on the CPU.  Runs no pickle but torch's restricted one.  ValueError for another's file."""
    try:
        with zipfile.ZipFile(path) as archive:  # what torch writes; it does not look at the checksums itself
            if broken := archive.testzip():
                raise ValueError(f"{broken} is broken")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, OSError, ValueError, LookupError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); move it away to start afresh, or give another out"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or set(state) != HOLDS:
        way = "move it away to start afresh, or give another out"
        raise ValueError(f"{path} is not a checkpoint of nolabel (format {FORMAT}); {way}")
    return state
