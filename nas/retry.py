"""Errors of a study's storage: transient ones are retried for a while; others end the worker, never a trial.

A trial that was running stays so in the storage. Its lease expires, and another worker resumes it (nas/lease.py).
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

PATIENCE = 120.0  # seconds of retrying; by default, a lease expires after as long without a heartbeat
PATIENCE_AFTER_SIGNAL = 5.0  # seconds of it once a signal has asked the worker to end
MAX_PAUSE = 5.0  # seconds between two tries

# What a working storage raises for a call that it refuses. UpdateFinishedTrialError is a RuntimeError.
EXPECTED_ERRORS = (UpdateFinishedTrialError, DuplicatedStudyError, KeyError, ValueError, TypeError, NotImplementedError)
# To repeat these blindly could make a second trial, or take one from the worker that has it since: nas/store.py looks first.
NOT_REPEATABLE = ("create_new_trial", "set_trial_state_values")
# Waiting does not help against these. All else a file system may report, such as ESTALE and EIO, is retried.
PERMANENT_ERRNOS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG,
}
LOCKED_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
TRANSIENT_SQLITE_CODES = (*LOCKED_CODES, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)
PERMANENT_SQL_ERRORS = (
    sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.DataError, sqlalchemy.exc.NotSupportedError, sqlalchemy.exc.ArgumentError,
)


class StorageError(RunError):
    """The storage cannot be read or written. No trial is at fault."""


class Transient(StorageError):
    """Another try may succeed."""


class CorruptJournal(Exception):
    """A journal that cannot be read; the message names the line and a way out."""


def root_cause(error: BaseException) -> BaseException:
    """Optuna hides a database's error behind one of its own."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code."""
    code = getattr(getattr(root_cause(error), "orig", None), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def locked(error: BaseException) -> bool:
    """Does another connection hold SQLite's file?"""
    return sqlite_code(error) in LOCKED_CODES


def transient(error: BaseException) -> bool:
    error = root_cause(error)
    if isinstance(error, OSError):
        return error.errno not in PERMANENT_ERRNOS
    if (code := sqlite_code(error)) is not None:
        return code in TRANSIENT_SQLITE_CODES
    return isinstance(error, sqlalchemy.exc.SQLAlchemyError) and not isinstance(error, PERMANENT_SQL_ERRORS)


def transient_at_opening(error: BaseException) -> bool:
    """A locked file or a file server's error may pass. A wrong host, name or password is better reported at once."""
    return locked(error) or (isinstance(error, OSError) and transient(error))


def one_line(error: BaseException) -> str:
    """The driver's message, without the statement and the link that SQLAlchemy adds."""
    error = root_cause(error)
    if isinstance(error, (StorageError, CorruptJournal)):
        return str(error)
    error = getattr(error, "orig", None) or error
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def storage_label(storage: str | BaseStorage) -> str:
    """`storage=…` for a message, without a password."""
    if isinstance(storage, str) and "://" in storage:
        try:
            storage = sqlalchemy.engine.make_url(storage).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            storage = f"{storage.partition('://')[0]}://…"
    return f"storage={storage}" if isinstance(storage, str) else f"storage={type(storage).__name__}"


def translate(call: Callable, label: str, is_transient: Callable = transient):
    """Return what one call of a storage returns. Its unexpected errors become Transient, or StorageError: one line.

    label: `storage=…` for messages.
    """
    try:
        return call()
    except (*EXPECTED_ERRORS, StorageError):
        raise
    except Exception as error:
        if is_transient(error):
            raise Transient(one_line(error)) from error
        raise StorageError(f"{label}: {one_line(error)}") from error


def retry(action: Callable, label: str, should_stop: Callable[[], bool] = lambda: False):
    """Return what the action returns; repeat it as a whole, with growing pauses, after Transient.

    should_stop: has a signal asked this process to end? Raises StorageError, one line, once patience is over.
    """
    start, pause, tries = time.monotonic(), 0.05, 1
    while True:
        try:
            return action()
        except Transient as error:
            waited = time.monotonic() - start
            if waited >= (PATIENCE_AFTER_SIGNAL if should_stop() else PATIENCE):
                raise StorageError(f"{label}: {error} ({tries} tries in {waited:.0f} s). No trial is lost; once the storage "
                                   "answers, the same command resumes") from error
        time.sleep(random.uniform(0.5, 1) * pause)
        pause, tries = min(2 * pause, MAX_PAUSE), tries + 1


class RetryingStorage:
    """A storage whose calls are retried, except for those of NOT_REPEATABLE, which raise Transient for `retry` to catch.

    should_stop: has a signal asked this process to end? Then patience is short.
    """

    def __init__(self, storage: BaseStorage, label: str):
        self.inner, self.label, self.should_stop = storage, label, lambda: False

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)  # such as copy and pickle ask for
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        def once(*args, **kwargs):
            return translate(partial(method, *args, **kwargs), self.label)

        return once if name in NOT_REPEATABLE else partial(self.retry, once)

    def retry(self, action: Callable, *args, **kwargs):
        """Return the action's result; repeat it as a whole where a call of NOT_REPEATABLE in it raised Transient."""
        return retry(partial(action, *args, **kwargs), self.label, lambda: self.should_stop())
