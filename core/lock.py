"""One command at a time in a folder: a lock that its process holds until it lets go or ends, however it ends.

A POSIX record lock (fcntl.lockf), because it belongs to the process: worker processes that outlive a killed command do not
keep it, and on NFS the server knows it.
"""
import errno
import fcntl
import json
import os
import socket
import sys
import time
import weakref
from pathlib import Path

NAME = ".lock"
LEASE = 120.0  # seconds for which the lock of another machine is waited for: a file server keeps that of a machine that died
WITHOUT = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # file systems that know no locks
_held: dict[Path, tuple[int, int]] = {}  # folder → descriptor, how many in this process hold it


class Held(ValueError):
    """Another command works in the folder."""


def hold(folder: Path, owner: object) -> str | None:
    """Lock a folder for this process until `owner` is gone.  → a note where the file system knows no locks, else None.

    Within a process several owners may hold one folder.  Raises Held where another process has it, OSError where the lock
    cannot be written.
    """
    folder = folder.resolve()
    descriptor, count = _held.get(folder, (None, 0))
    if descriptor is None:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, folder)
        except OSError as error:
            os.close(descriptor)
            if error.errno in WITHOUT:
                return f"{folder} is on a file system without locks: start no second command there"
            raise
        except Held:
            os.close(descriptor)
            raise
    _held[folder] = descriptor, count + 1
    weakref.finalize(owner, _release, folder)
    return None


def _lock(descriptor: int, folder: Path) -> None:
    end, waiting = time.monotonic() + LEASE, False
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            who = _owner(descriptor)
            if who.get("host") == socket.gethostname() or time.monotonic() > end:
                where = f" (process {who.get('process')} on {who.get('host')})" if who else ""
                raise Held(f"out={folder} is in use by another command{where}; wait for it, or give another out") from None
            if not waiting:
                print(f"note: waiting up to {LEASE / 60:g} minutes for {who.get('host', 'another machine')} to leave {folder}",
                      file=sys.stderr, flush=True)
            waiting = True
            time.sleep(1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)


def _owner(descriptor: int) -> dict:
    try:
        return json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:
        return {}


def _release(folder: Path) -> None:
    descriptor, count = _held.pop(folder)
    if count > 1:
        _held[folder] = descriptor, count - 1
    else:
        os.close(descriptor)
