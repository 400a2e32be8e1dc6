"""Storages that fail for a while, or for good: no trial is lost, none is recorded as failed, and the study stays the same."""
import contextlib
import errno
import sqlite3
import sys
from dataclasses import replace

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from core.errors import Stopped
from nas import lease, report, retry, search, storage
from nas.halving import Halving
from nas.retry import StorageError
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.store import LeaseLost, TrialStore
from nas.trial_record import Lease
from tests.nas.test_scheduler import OBJECTIVES, FakeEvaluator, table

CONFIG = SearchConfig(4, Halving.of(9, 2, 2), OBJECTIVES, {"macs": 7.0}, "random", 0, 0.001)


def sqlite_error(code: int) -> sqlalchemy.exc.OperationalError:
    error = sqlite3.OperationalError("from SQLite")
    error.sqlite_errorcode = code
    return sqlalchemy.exc.OperationalError("SELECT", {}, error)


def hidden(error: Exception) -> optuna.exceptions.StorageInternalError:
    """As Optuna raises it."""
    found = optuna.exceptions.StorageInternalError("invalid data in the commit")
    found.__cause__ = error
    return found


DROPPED = sqlalchemy.exc.OperationalError("SELECT", {}, psycopg.OperationalError("server closed the connection unexpectedly"))
TRANSIENT = {
    "locked": hidden(sqlite_error(sqlite3.SQLITE_BUSY)), "dropped": hidden(DROPPED), "while reading": DROPPED,
    "ESTALE": OSError(errno.ESTALE, "Stale file handle"), "EIO": OSError(errno.EIO, "Input/output error"),
    "server error": sqlalchemy.exc.InternalError("SELECT", {}, psycopg.InternalError("in a failed transaction")),
    "no free connection": sqlalchemy.exc.TimeoutError("QueuePool limit"),
}
PERMANENT = {
    "disk full": OSError(errno.ENOSPC, "No space left on device"), "permission": PermissionError(errno.EACCES, "denied"),
    "journal gone": FileNotFoundError(errno.ENOENT, "No such file"), "read-only": hidden(sqlite_error(sqlite3.SQLITE_READONLY)),
    "corrupt": hidden(sqlite_error(sqlite3.SQLITE_CORRUPT)), "memory": MemoryError(),
    "no table": sqlalchemy.exc.ProgrammingError("SELECT", {}, psycopg.errors.UndefinedTable("no table")),
}


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """No pause takes time; how long each would have been."""
    found = []
    monkeypatch.setattr(retry.time, "sleep", found.append)
    return found


class Faulty(InMemoryStorage):
    """Its count-th call, of any kind, raises; before or after it did what was asked."""

    count, before, error, calls = 0, True, None, 0

    def __getattribute__(self, name: str):
        method = object.__getattribute__(self, name)
        if not (name.startswith(("get_", "set_", "create_")) and callable(method)) or self.error is None:
            return method

        def call(*arguments, **named):
            error, self.error = self.error, None  # what a call does inside is no call
            try:
                self.calls += 1
                if self.calls == self.count and self.before:
                    raise error
                result = method(*arguments, **named)
                if self.calls == self.count:
                    raise error
                return result
            finally:
                self.error = error

        return call


def work(backend: InMemoryStorage, evaluator: FakeEvaluator) -> list[tuple]:
    Worker(TrialStore("study", backend, OBJECTIVES, {"a": 1}), CONFIG, evaluator).run()
    backend.error = None
    return table(TrialStore("study", backend, OBJECTIVES, {"a": 1}).records())


def faulty(count: int, before: bool, error: Exception) -> Faulty:
    backend = Faulty()
    backend.count, backend.before, backend.error = count, before, error
    return backend


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_error_at_any_call_before_or_after_its_effect_changes_nothing(before, naps, monkeypatch):
    monkeypatch.setattr(lease, "process_ended", lambda worker: False)
    whole = faulty(0, True, TRANSIENT["dropped"])
    evaluator = FakeEvaluator()
    expected = work(whole, evaluator)
    assert {row[1] for row in expected} == {"COMPLETE", "PRUNED"}
    errors = list(TRANSIENT.values())
    for count in range(1, whole.calls + 1):
        backend, again = faulty(count, before, errors[count % len(errors)]), FakeEvaluator()
        assert work(backend, again) == expected, f"call {count} of {whole.calls}"
        assert again.spent == evaluator.spent
    assert naps


@pytest.mark.parametrize("name", PERMANENT)
def test_what_waiting_does_not_help_ends_the_worker_at_once_and_no_trial(name, naps, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", replace(CONFIG, interval=3600))  # no heartbeats: the same calls
    whole = faulty(0, True, PERMANENT[name])
    expected = work(whole, FakeEvaluator())
    for count in range(40, whole.calls, 7):  # after its opening, which is a ValueError
        backend = faulty(count, True, PERMANENT[name])
        with pytest.raises(StorageError, match=r"^storage=Faulty: ") as error:
            work(backend, FakeEvaluator())
        assert "\n" not in str(error.value)
        backend.error = None
        records = TrialStore("study", backend, OBJECTIVES, {"a": 1}).records()
        assert not [r for r in records if r.state == TrialState.FAIL]
        assert work_after(backend) == expected
    assert [nap for nap in naps if nap > 0.001] == []


def work_after(backend: Faulty) -> list[tuple]:
    """What the next worker makes of it, when the one that ended is gone."""
    with pytest.MonkeyPatch.context() as patched:
        store = TrialStore("study", backend, OBJECTIVES, {"a": 1})
        patched.setattr(lease, "process_ended", lambda worker: worker != store.worker)
        Worker(store, CONFIG, FakeEvaluator()).run()
    return table(store.records())


def test_a_storage_that_does_not_come_back_ends_the_worker_after_a_bounded_time_with_a_line(naps, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    backend = Faulty()
    store = TrialStore("study", backend, OBJECTIVES, {"a": 1})
    id = store.create()
    monkeypatch.setattr(backend, "get_trial", failing(TRANSIENT["dropped"]))
    with pytest.raises(StorageError) as error:
        store.heartbeat(id)
    message = str(error.value)
    assert message.startswith("storage=Faulty: OperationalError: server closed the connection unexpectedly (")
    assert message.endswith("No trial is lost; once the storage answers, the same command resumes")
    assert retry.PATIENCE <= clock[0] <= retry.PATIENCE + retry.MAX_PAUSE
    begun = clock[0]
    store.storage.should_stop = lambda: True  # a scheduler that has sent a signal does not wait for long
    with pytest.raises(StorageError):
        store.heartbeat(id)
    assert clock[0] - begun <= retry.PATIENCE_AFTER_SIGNAL + retry.MAX_PAUSE


def failing(error: Exception):
    def call(*arguments, **named):
        raise error

    return call


def test_a_worker_that_is_stopped_while_the_storage_is_away_says_that_it_was_stopped(monkeypatch):
    monkeypatch.setattr(retry, "PATIENCE", 0)
    backend, evaluator = Faulty(), FakeEvaluator()
    store = TrialStore("study", backend, OBJECTIVES, {"a": 1})
    worker = Worker(store, CONFIG, evaluator)

    def advance(*arguments):
        worker.stop = True
        monkeypatch.setattr(backend, "set_trial_state_values", failing(TRANSIENT["EIO"]))
        return FakeEvaluator.advance(evaluator, *arguments)

    evaluator.advance = advance
    monkeypatch.setattr(retry, "PATIENCE_AFTER_SIGNAL", 0)
    with pytest.raises(Stopped):
        worker.run()


def test_an_answer_of_the_storage_is_no_error_of_it(naps):
    store = TrialStore("study", InMemoryStorage(), OBJECTIVES, {"a": 1})
    id = store.create()
    store.complete(id, [1.0, 1.0])
    with pytest.raises(LeaseLost):
        store.set(id, "reason", "late")
    with pytest.raises(KeyError):
        store.record(99)
    assert naps == []


# ----------------------------------------------------------------------------------------------------------- real databases


class Holding(FakeEvaluator):
    """Takes the file for itself while its second trial trains, and gives it back when somebody has waited three times."""

    def __init__(self, path, monkeypatch):
        super().__init__()
        self.other, self.waited = sqlite3.connect(path, isolation_level=None), 0
        monkeypatch.setattr(retry.time, "sleep", self.wait)

    def hold(self) -> None:
        self.waited = 0
        self.other.execute("BEGIN EXCLUSIVE")

    def wait(self, seconds: float) -> None:
        self.waited += 1
        if self.waited == 3 and self.other.in_transaction:
            self.other.rollback()

    def advance(self, *arguments):
        figures = super().advance(*arguments)
        if len(self.trained) == 2 and not self.other.in_transaction:
            self.hold()
        return figures


@pytest.mark.long
def test_an_sqlite_file_that_another_connection_holds_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0)
    path, arguments = tmp_path / "study.db", (f"sqlite:///{tmp_path}/study.db", OBJECTIVES, {"a": 1})
    TrialStore("study", *arguments)
    evaluator = Holding(path, monkeypatch)
    evaluator.hold()
    store = TrialStore("study", *arguments)  # while it is held
    assert evaluator.waited >= 3
    Worker(store, CONFIG, evaluator).run()
    assert evaluator.waited >= 3
    expected = work(InMemoryStorage(), FakeEvaluator())
    assert table(store.records()) == expected


@pytest.mark.long
def test_an_sqlite_file_that_stays_locked_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0)
    monkeypatch.setattr(retry, "PATIENCE", 0)
    arguments = f"sqlite:///{tmp_path}/study.db", OBJECTIVES, {"a": 1}
    store = TrialStore("study", *arguments)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match=r"storage=sqlite:///.*OperationalError: database is locked"):
            TrialStore("study", *arguments)
        with pytest.raises(StorageError, match="database is locked"):
            store.create()
    assert store.records() == []


def test_sqlite_itself_waits_for_others_before_we_do(tmp_path):
    backend = storage.open_storage(f"sqlite:///{tmp_path}/study.db", "study")
    with backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == storage.BUSY_SECONDS * 1000


def test_connections_that_the_server_drops_in_the_middle_of_anything_change_nothing(server, naps):
    """At every fifth statement, which is then sent over the dead connection."""
    expected, count = work(InMemoryStorage(), FakeEvaluator()), [0]
    store = TrialStore("dropped", server.url, OBJECTIVES, {"a": 1})
    engine = store.storage.inner._backend.engine

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def drop(connection, cursor, statement, *rest):
        count[0] += 1
        if count[0] % 40 == 0:
            with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])

    Worker(store, CONFIG, FakeEvaluator()).run()
    assert table(store.records()) == expected
    assert count[0] > 200
    assert len(naps) > 3


def test_a_server_that_is_away_for_a_while_is_waited_for(server, monkeypatch):
    store, waited = TrialStore("away", server.url, OBJECTIVES, {"a": 1}), []
    id = store.create()
    server.stop()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.undo()
            server.start()

    monkeypatch.setattr(retry.time, "sleep", wait)
    store.heartbeat(id)
    assert len(waited) >= 3
    assert store.record(id).lease == Lease(store.worker, 1)


def test_a_wrong_server_is_reported_at_once_and_without_the_password(naps):
    with pytest.raises(ValueError, match="storage=postgresql") as error:
        TrialStore("study", "postgresql+psycopg://us:secret@127.0.0.1:1/nowhere", OBJECTIVES, {"a": 1})
    assert "secret" not in str(error.value)
    assert naps == []


# ---------------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("command", ["search", "report"])
def test_a_command_ends_with_one_line_where_its_storage_fails_for_long(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = failing(StorageError("storage=auto: OSError: [Errno 5] Input/output error"))
    monkeypatch.setattr(search, "supervise", error)
    monkeypatch.setattr(report, "TrialStore", error)
    monkeypatch.setattr("sys.argv", ["it", "--study=s", "--data=digits"])
    assert {"search": search.main, "report": report.main}[command]() == StorageError.code
    assert capsys.readouterr().err == "error: storage=auto: OSError: [Errno 5] Input/output error\n"
