"""Standard output and error that never end a run: a full disk, a closed pipe or a closed terminal loses the text alone."""
import contextlib
import errno
import io
import os
import sys
from typing import TextIO

# what a write to a full disk, a closed pipe or a terminal that is gone fails with
LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET)


class Lossy(io.FileIO):
    """A file descriptor whose writes cannot fail for want of a reader or of room."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in LOST:
                raise
            return memoryview(data).nbytes


def protect() -> None:
    """Make `sys.stdout` and `sys.stderr` such files. Text that their encoding lacks is written as escapes (\\xd7).

    Streams that a test or a notebook has put in their place stay. A descriptor that the parent closed becomes /dev/null, so
    that no file of the run is opened under its number.
    """
    _open_missing()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not _is_lossy(stream):
            setattr(sys, name, _lossy(stream, number))
            setattr(sys, f"__{name}__", getattr(sys, name))


def _is_lossy(stream: TextIO | None) -> bool:
    buffer = getattr(stream, "buffer", None)
    return isinstance(getattr(buffer, "raw", buffer), Lossy)


def _lossy(stream: TextIO | None, number: int) -> TextIO:
    """A text stream like this one (None: it was closed) on the descriptor of that number."""
    with contextlib.suppress(OSError, AttributeError):
        stream.flush()
    raw = Lossy(number, "w", closefd=False)
    unbuffered = isinstance(getattr(stream, "buffer", None), io.FileIO)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=number == 2 or getattr(stream, "line_buffering", False),
        write_through=unbuffered,
    )


def _open_missing() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number: this one
