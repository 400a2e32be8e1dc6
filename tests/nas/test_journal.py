"""A journal that was cut, by anything, at any byte: it is repaired, or its corrupt line is reported, and no trial is lost."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas import journal
from nas.journal import JournalFile, JournalLock
from nas.store import TrialStore
from nas.trial_record import Lease, RungResult
from tests.nas.stand_in import accuracy

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVES = {"knn": "maximize"}
LAST_LINES = ("a new trial", "a candidate", "a rung", "a trial's end")


def open_store(path: Path) -> TrialStore:
    return TrialStore("study", str(path), OBJECTIVES, {"a": 1})


def train(store: TrialStore, id: int) -> None:
    """What a worker writes of a trial, in the same order."""
    if not store.record(id).candidate:
        store.set_candidate(id, {"hash": f"{id:016x}", "params": {}, "distributions": {}}, {"macs": 1.0})
    store.set_rungs(id, [RungResult(1.0, [accuracy(f"{id:016x}", 1)], {})])
    store.complete(id, [accuracy(f"{id:016x}", 1)])


def states(store: TrialStore) -> list[tuple]:
    return [(r.number, r.state, r.hash, r.rungs) for r in store.records()]


def resume(path: Path) -> list[tuple]:
    """Complete what is there and one trial more, as the next worker would."""
    store = open_store(path)
    for r in store.records():
        if r.state == TrialState.RUNNING:
            store.set(r.id, "owner", Lease(store.worker).json)
            train(store, r.id)
    while len(store.records()) < 3:
        train(store, store.create())
    return states(open_store(path))


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> list[bytes]:
    """The journal of three trials."""
    path = tmp_path_factory.mktemp("whole") / "journal.log"
    store = open_store(path)
    for _ in range(3):
        train(store, store.create())
    return path.read_bytes().splitlines(keepends=True)


def index(lines: list[bytes], last: str) -> int:
    """Where the last trial's line of this kind is."""
    marks = {"a new trial": b'"op_code":4', "a candidate": b'"choice"', "a rung": b'"rungs"', "a trial's end": b'"op_code":6'}
    return max(i for i, line in enumerate(lines) if marks[last] in line)


@pytest.mark.parametrize("last", LAST_LINES)
def test_a_journal_cut_at_any_byte_of_its_last_line_resumes(last, lines, tmp_path, capfd):
    end = index(lines, last)
    before, line = b"".join(lines[:end]), lines[end]
    whole = tmp_path / "whole.log"
    whole.write_bytes(b"".join(lines))
    expected = states(open_store(whole))
    for size in range(len(line)):
        path = tmp_path / f"{size}.log"
        path.write_bytes(before + line[:size])
        assert resume(path) == expected, f"cut after {size} bytes"
        assert all(journal.is_record(written) for written in path.read_bytes().splitlines())
        cut = Path(f"{path}.cut")
        lost = 0 < size < len(line) - 1  # without its line's end alone, nothing is lost
        assert (cut.read_bytes() if cut.exists() else b"") == (line[:size] + b"\n" if lost else b"")
        assert (f"note: {path} ended in half a line" in capfd.readouterr().err) == lost


def test_zeros_at_the_end_as_after_a_loss_of_power_are_cut_off(lines, tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(b"".join(lines[:-1]) + b"\0" * 9000)
    assert len(resume(path)) == 3
    assert Path(f"{path}.cut").read_bytes() == b"\0" * 9000 + b"\n"


def test_a_worker_that_is_killed_in_its_write_harms_no_other(tmp_path):
    path = tmp_path / "journal.log"
    store, other = open_store(path), open_store(path)
    train(store, store.create())
    with open(path, "ab") as file:
        file.write(b'{"op_code":8,"worker_id":"of one that was')
    train(store, store.create())
    train(other, other.create())
    assert [row[0] for row in states(open_store(path))] == [0, 1, 2]
    assert states(store) == states(other) == states(open_store(path))


def test_two_processes_open_a_cut_journal_at_once(lines, tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-20])
    code = ("import sys; from nas.store import TrialStore; print('ready', flush=True); sys.stdin.readline();"
            f"store = TrialStore('study', {str(path)!r}, {OBJECTIVES!r}, {{'a': 1}}); print(store.create())")
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found
    assert sorted(int(out) for out, _ in found) == [3, 4]
    assert sum("half a line" in err for _, err in found) == 1
    assert Path(f"{path}.cut").read_bytes() == lines[-1][:-20] + b"\n"
    assert len(states(open_store(path))) == 5


# ----------------------------------------------------------------------------------------------------------- corrupt lines


def refusal(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="storage=") as error:
        open_store(path)
    assert path.read_bytes() == before, "a file that is refused must stay as it is"
    return str(error.value)


def test_a_corrupt_line_in_the_middle_is_reported_with_a_way_out_that_works(lines, tmp_path):
    path, at = tmp_path / "journal.log", index(lines, "a rung")
    path.write_bytes(b"".join(lines[:at]) + b"\0" * 50 + b"\n" + b"".join(lines[at + 1 :]))
    message = refusal(path)
    assert f"{path}, line {at + 1} is no record of a journal, and records follow it" in message
    command, storage = message.partition("precedes it: ")[2].split(", and --storage ")
    subprocess.run(command, shell=True, check=True)
    assert [row[0] for row in resume(Path(storage))] == [0, 1, 2]


def test_what_was_appended_to_half_a_line_is_kept_by_the_suggested_command(lines, tmp_path):
    """As Optuna's own file backend does to a journal that was cut."""
    path = tmp_path / "journal.log"
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
    other = JournalFileBackend(str(path))
    other.append_logs([json.loads(lines[-1])])
    other.append_logs([{"op_code": 8, "worker_id": "w", "trial_id": 2, "user_attr": {"a": 1}}])
    message = refusal(path)
    assert f"line {len(lines)} is no record of a journal: half a record and a whole one" in message
    subprocess.run(message.partition("whole one: ")[2], shell=True, check=True)
    assert states(open_store(path)) == [(n, TrialState.COMPLETE, *rest) for n, _, *rest in states(open_store(path))]
    assert len(states(open_store(path))) == 3


@pytest.mark.parametrize("content", [b"# notes\nof mine", b"{}", b"one line", b"SQLite format 3\0\1\2", b"1\n2\n"])
def test_a_file_of_another_kind_is_not_appended_to(content, tmp_path):
    path = tmp_path / "notes"
    path.write_bytes(content)
    assert f"{path}, line 1 is no record of a journal; give the path of a new file" in refusal(path)


def test_a_line_that_is_whole_when_read_again_is_read_again(lines, tmp_path, monkeypatch):
    """A network file system may show zeros where another machine has just written."""
    path = tmp_path / "journal.log"
    path.write_bytes(b"".join(lines))
    read, stale = JournalFileBackend.read_logs, [5, 9]

    def reading(self, start):
        for number, log in enumerate(read(self, start), start):
            if number in stale:
                stale.remove(number)
                raise ValueError("zeros")
            yield log

    monkeypatch.setattr(JournalFileBackend, "read_logs", reading)
    assert len(states(open_store(path))) == 3
    assert not stale


# -------------------------------------------------------------------------------------------------------------------- lock


@pytest.mark.parametrize("target", ["runs/nas/s/journal.log", "/nowhere"])
def test_a_lock_that_a_killed_process_left_is_taken_wherever_it_leads(target, tmp_path):
    path = tmp_path / "journal.log"
    os.symlink(target, f"{path}.lock")
    lock = JournalLock(str(path), 0.05)
    assert lock.acquire()
    lock.release()
    assert not os.path.lexists(f"{path}.lock")


def test_a_process_that_was_stopped_removes_no_other_lock_than_its_own(tmp_path):
    path = tmp_path / "journal.log"
    lock, link = JournalLock(str(path), 10), f"{path}.lock"
    lock.acquire()
    os.unlink(link)
    os.symlink(path, link)
    os.utime(link, ns=(0, 0), follow_symlinks=False)
    lock.release()
    assert os.path.lexists(link)


def test_optuna_itself_reads_and_appends_to_our_journals(lines, tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(b"".join(lines))
    logs = list(JournalFileBackend(str(path)).read_logs(0))
    assert logs == [json.loads(line) for line in lines] == list(JournalFile(path).read_logs(0))
    copied = shutil.copy(path, tmp_path / "copy.log")
    JournalFileBackend(str(path)).append_logs(logs[-1:])
    JournalFile(copied).append_logs(logs[-1:])
    assert path.read_bytes() == Path(copied).read_bytes()
