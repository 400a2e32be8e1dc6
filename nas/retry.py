"""Errors of a study's storage: transient ones are retried for a while, and what remains ends the worker, never a trial.

A trial that was running stays so in the storage, and is given to another worker when this one is gone (nas/ledger.py).
"""
import errno
import random
import sqlite3
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage

from core.errors import RunError

PATIENCE = 120.0  # seconds of retrying; a worker counts as lost after as long without a sign of life, by default
HURRY = 5.0  # seconds of it once a signal has asked the worker to end
LONGEST_PAUSE = 5.0  # seconds between two tries

# No error of the storage, but its answer. UpdateFinishedTrialError is a RuntimeError.
ANSWERS = (UpdateFinishedTrialError, DuplicatedStudyError, KeyError, ValueError, TypeError, NotImplementedError)
# To repeat these blindly could make a second trial, or take one from the worker that has it since: nas/ledger.py looks first.
LOOK_FIRST = ("create_new_trial", "set_trial_state_values")
# What waiting does not help against. All else a file system may report, such as ESTALE and EIO, is retried.
LASTING_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
                  errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG}
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
PASSING_IN_SQLITE = (*LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)
LASTING_IN_SQL = (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.DataError, sqlalchemy.exc.NotSupportedError,
                  sqlalchemy.exc.ArgumentError)


class StorageError(RunError):
    """The storage cannot be read or written. No trial is at fault."""


class Transient(StorageError):
    """Worth another try."""


class Broken(Exception):
    """What is stored cannot be understood; the message names the place and the way out."""


def root(error: BaseException) -> BaseException:
    """Optuna hides a database's error behind one of its own."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code."""
    code = getattr(getattr(root(error), "orig", None), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def locked(error: BaseException) -> bool:
    """Does another connection hold SQLite's file?"""
    return sqlite_code(error) in LOCKED


def transient(error: BaseException) -> bool:
    error = root(error)
    if isinstance(error, OSError):
        return error.errno not in LASTING_ERRNOS
    if (code := sqlite_code(error)) is not None:
        return code in PASSING_IN_SQLITE
    return isinstance(error, sqlalchemy.exc.SQLAlchemyError) and not isinstance(error, LASTING_IN_SQL)


def transient_at_opening(error: BaseException) -> bool:
    """A locked file or a file server's error may pass. A wrong host, name or password is better reported at once."""
    return locked(error) or (isinstance(error, OSError) and transient(error))


def line(error: BaseException) -> str:
    """The driver's own words, without the statement and the link that SQLAlchemy adds."""
    error = root(error)
    if isinstance(error, (StorageError, Broken)):
        return str(error)
    error = getattr(error, "orig", None) or error
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def named(said: str | BaseStorage) -> str:
    """`storage=…` for a message, without a password."""
    if isinstance(said, str) and "://" in said:
        try:
            said = sqlalchemy.engine.make_url(said).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            said = f"{said.partition('://')[0]}://…"
    return f"storage={said}" if isinstance(said, str) else f"storage={type(said).__name__}"


def translate(act: Callable, where: str, worth: Callable = transient):
    """What act, one call of a storage, returns or answers. Any other error of it becomes Transient, or StorageError: one line.

    where: `storage=…`; worth: is an error worth another try?
    """
    try:
        return act()
    except (*ANSWERS, StorageError):
        raise
    except Exception as error:
        if worth(error):
            raise Transient(line(error)) from error
        raise StorageError(f"{where}: {line(error)}") from error


def retry(act: Callable, where: str, stopping: Callable[[], bool] = lambda: False):
    """What act returns; it is repeated as a whole, with growing pauses, after Transient.  stopping: has a signal asked to end?

    Raises StorageError, one line, once patience is over.
    """
    start, pause, tries = time.monotonic(), 0.05, 1
    while True:
        try:
            return act()
        except Transient as error:
            waited = time.monotonic() - start
            if waited >= (HURRY if stopping() else PATIENCE):
                raise StorageError(f"{where}: {error} ({tries} tries in {waited:.0f} s). No trial is lost; once the storage "
                                   "answers, the same command resumes") from error
        time.sleep(random.uniform(0.5, 1) * pause)
        pause, tries = min(2 * pause, LONGEST_PAUSE), tries + 1


class RetryingStorage:
    """A storage whose every call is retried, but those of LOOK_FIRST, which raise Transient for `retry` to catch.

    stopping: has a signal asked this process to end? Then patience is short.
    """

    def __init__(self, storage: BaseStorage, where: str):
        self.inner, self.where, self.stopping = storage, where, lambda: False

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)  # such as copy and pickle ask for
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        def once(*arguments, **named):
            return translate(partial(method, *arguments, **named), self.where)

        return once if name in LOOK_FIRST else partial(self.retry, once)

    def retry(self, act: Callable, *arguments, **named):
        """act's result, repeated as a whole where a call of LOOK_FIRST in it raised Transient."""
        return retry(partial(act, *arguments, **named), self.where, lambda: self.stopping())
