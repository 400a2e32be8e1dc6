"""A journal storage's file and its lock: an incomplete last line is repaired, a corrupt line is reported.

Optuna's `JournalFileBackend` ignores a last line that was cut short (a worker killed in its write, a full disk, a machine
that lost power) and then appends to it, which makes a broken line that no reader gets past. The format stays Optuna's.
"""
import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from nas.retry import CorruptJournal

LOCK_SECONDS = 10  # then a lock is taken from a worker that was killed or stopped while it held it
FIRST_BYTES = b'{"op_code":'  # of every record


def is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


class JournalLock(JournalFileSymlinkLock):
    """A lock by a symbolic link beside the journal, which NFS too creates for one process only.

    The same link as Optuna's, so that both exclude each other. Two things differ. The link itself is looked at, not the file
    it names: Optuna's waiters never end where a relative link of a killed process leads nowhere. And a process removes only
    the link that it made: one that was stopped for long must not remove the link of whoever came after it.
    """

    def __init__(self, path: str, seconds: float):
        self.target, self.link, self.seconds, self.created = os.path.abspath(path), f"{path}.lock", seconds, None

    def acquire(self) -> bool:
        """Waits for others. Their link is removed once it has stayed the same for so many seconds."""
        pause, created, since = 0.001, None, time.monotonic()
        while True:
            with contextlib.suppress(FileExistsError):
                os.symlink(self.target, self.link)
                self.created = self._created()
                return True
            now = self._created()
            if now != created:
                created, since = now, time.monotonic()
            elif now is not None and time.monotonic() - since > self.seconds:
                self._remove(now)
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def release(self) -> None:
        self._remove(self.created)

    def _created(self) -> int | None:
        """When the link was created, in nanoseconds; this tells one holder from the next."""
        try:
            return os.lstat(self.link).st_mtime_ns
        except FileNotFoundError:
            return None

    def _remove(self, created: int | None) -> None:
        if created is not None and self._created() == created:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.link)


class JournalFile(JournalFileBackend):
    """A journal's file. An incomplete last line is cut off on opening and before each append, and kept in <path>.cut.

    Raises CorruptJournal, with the line's number, where another line is no record.
    """

    def __init__(self, path: str | Path):
        lock = JournalLock(str(path), LOCK_SECONDS)
        super().__init__(str(path), lock)
        self.path, self.lock = Path(path), lock
        self._check_first()
        with open(self.path, "rb") as file:
            incomplete = self._incomplete(file)
        if incomplete is not None:  # or another worker is in its write: the lock will tell
            with contextlib.suppress(PermissionError), self._locked():  # a reader without the right to write needs no repair
                self._repair()

    def append_logs(self, logs: list[dict]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._locked():
            if not self._line_ended():  # another worker was killed in its write
                self._repair()
            with open(self.path, "ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Iterator[dict]:
        number = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                if not (isinstance(log, dict) and "op_code" in log):
                    raise ValueError("no record")
                number += 1
                yield log
        except ValueError as error:
            raise self._corrupt(number + 1) from error

    # ---- an incomplete last line

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _line_ended(self) -> bool:
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read(1) in (b"", b"\n")

    @staticmethod
    def _incomplete(file) -> tuple[int, bytes] | None:
        """Where the last line begins, and its bytes, unless it is a whole record with a line's end."""
        start = end = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail[:-1]:
            size = min(start, 4096)
            start -= size
            file.seek(start)
            tail = file.read(size) + tail
        line = tail[tail[:-1].rfind(b"\n") + 1 :]
        return (end - len(line), line) if line and not (line.endswith(b"\n") and is_record(line)) else None

    def _repair(self) -> None:
        """Add the last line's end where nothing else is missing, else cut the line off. The lock must be held."""
        with open(self.path, "r+b") as file:
            incomplete = self._incomplete(file)
            if incomplete is None:
                return
            start, line = incomplete
            if is_record(line):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                with open(f"{self.path}.cut", "ab") as kept:
                    kept.write(line.rstrip(b"\n") + b"\n")
                file.truncate(start)
                print(f"note: {self.path} ended in half a line, of a write that was interrupted. Its {len(line)} bytes are in "
                      f"{self.path}.cut; the study resumes from the line before", file=sys.stderr)
            file.flush()
            os.fsync(file.fileno())

    # ---- a corrupt line

    def _check_first(self) -> None:
        """A file of another kind must not be appended to."""
        with open(self.path, "rb") as file:
            line = file.readline()
        whole = is_record(line) if line.endswith(b"\n") else FIRST_BYTES.startswith(line[: len(FIRST_BYTES)])
        if not whole:
            raise self._corrupt(1)

    def _corrupt(self, number: int) -> Exception:
        """What to raise for a line that is no record."""
        with open(self.path, "rb") as file:
            line = next((text for n, text in enumerate(file, 1) if n == number), b"")
        if is_record(line):  # a file server showed an older state of the file a moment ago
            return OSError(errno.ESTALE, "the file changed while it was read", str(self.path))
        problem = f"{self.path}, line {number} is no record of a journal"
        if number == 1:
            return CorruptJournal(f"{problem}; give the path of a new file, or a database's URL such as sqlite:///study.db")
        rest = line[line.rfind(FIRST_BYTES) :] if FIRST_BYTES in line[1:] else b""
        if is_record(rest):
            return CorruptJournal(f"{problem}: half a record and a whole one. To keep the whole one: sed -i.bak "
                                  f"'{number}s/.*{{\"op_code\":/{{\"op_code\":/' {self.path}")
        return CorruptJournal(f"{problem}, and records follow it. To resume from what precedes it: head -n {number - 1} "
                              f"{self.path} > {self.path}.whole, and --storage {self.path}.whole")
