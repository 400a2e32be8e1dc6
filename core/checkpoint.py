"""Files that are whole or not there, and last.pt: everything a run needs to go on as if it had never stopped."""
import contextlib
import errno
import io
import os
import pickle
import tempfile
from pathlib import Path

import torch

from core.errors import DiskFull

FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(path: str | Path, data: bytes | str) -> None:
    """Write a file atomically: a temporary one beside it, fsync, rename. A reader sees the old file or the new one."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if error.errno in FULL:
            raise DiskFull(f"no room to write {path} ({len(data) / 1e6:.1f} MB): the one saved before is untouched") from error
        raise


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
    """last.pt's content, on the CPU.  Runs no pickle but torch's restricted one.  Raises ValueError for another's file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}); move it away to start afresh") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "method" not in state:
        raise ValueError(f"{path} is not a checkpoint of nolabel (format {FORMAT}); move it away to start afresh")
    return state
