"""Workers that are terminated, killed and stopped at random moments: every trial ends, none is lost, none is trained twice."""
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from optuna.trial import TrialState

from nas.scheduler import Worker
from nas.store import TrialStore
from tests.nas.stand_in import StandIn, config

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 0.6
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP)


def start(storage: str, folder: Path, trials: int, rungs: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.nas.stand_in", storage, str(folder), str(trials), str(rungs), str(INTERVAL)]
    return subprocess.Popen(command, cwd=ROOT, stderr=open(folder.parent / "errors", "a"))


def disturbed(storage: str, folder: Path, trials: int, rungs: int, disturbances: int, seed: int) -> list[str]:
    """Four workers until all is done; meanwhile signals to one of them at random moments.  → what was sent"""
    dice, sent = random.Random(seed), []
    folder.mkdir()
    workers, asleep = [start(storage, folder, trials, rungs) for _ in range(4)], []
    limit = time.monotonic() + 150
    try:
        time.sleep(4)  # they are importing
        while any(worker.poll() is None for worker in workers):
            assert time.monotonic() < limit, "it does not end"
            time.sleep(dice.uniform(0.2, 0.8))
            for worker, since in list(asleep):
                if time.monotonic() - since > 3 * INTERVAL:
                    worker.send_signal(signal.SIGCONT)
                    asleep.remove((worker, since))
            if len(sent) < disturbances:
                worker = dice.choice(workers)
                if worker.poll() is None and worker not in [w for w, _ in asleep]:
                    number = SIGNALS[len(sent) % 3]
                    worker.send_signal(number)
                    sent.append(number.name)
                    if number == signal.SIGSTOP:
                        asleep.append((worker, time.monotonic()))
                    else:
                        worker.wait()
            workers = [w if w.poll() is None or w.returncode == 0 else start(storage, folder, trials, rungs) for w in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
    return sent


def table(storage: str, rungs: int) -> list[tuple]:
    settings = config(1, rungs, INTERVAL)
    records = TrialStore("study", storage, settings.objectives, {"rungs": str(rungs)}).records()
    ends = TrialState.COMPLETE, TrialState.PRUNED
    assert all(r.state in ends for r in records), [(r.number, r.state, r.reason) for r in records]
    return [(r.hash, [(r.epochs, r.values) for r in r.rungs]) for r in records if not r.rejected]


def undisturbed_table(folder: Path, trials: int, rungs: int) -> list[tuple]:
    """The undisturbed study of one worker."""
    settings, storage = config(trials, rungs, 60), str(folder / "undisturbed.log")
    store = TrialStore("study", storage, settings.objectives, {"rungs": str(rungs)})
    Worker(store, settings, StandIn(folder / "undisturbed")).run()
    return table(storage, rungs)


def epochs_trained(folder: Path) -> dict[tuple[str, str], int]:
    found: dict = {}
    for line in (folder / "log").read_text().splitlines():
        number, epoch, _ = line.split()
        found[number, epoch] = found.get((number, epoch), 0) + 1
    return found


def hold(storage: str, tmp_path: Path, seed: int) -> None:
    trials, folder = 60, tmp_path / "runs"
    sent = disturbed(storage, folder, trials, 1, 9, seed)
    assert sorted(set(sent)) == ["SIGKILL", "SIGSTOP", "SIGTERM"]
    found, undisturbed = table(storage, 1), undisturbed_table(tmp_path, trials, 1)
    assert len(found) == trials == len({hash for hash, _ in found})
    assert sorted(found) == sorted(undisturbed)
    again = {key: n for key, n in epochs_trained(folder).items() if n > 1}
    # only what a worker was at when it was hit may be done again, and what one that slept did after it woke
    assert sum(n - 1 for n in again.values()) <= len(sent), again


def empty(server: str) -> str:
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    return server.rpartition("/")[0] + "/empty"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.slow
def test_workers_may_begin_an_empty_database_at_once(kind, request, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else empty(request.getfixturevalue("postgresql"))
    line = threading.Barrier(8)

    def begin(_):
        line.wait()
        return TrialStore("at once", storage, {"knn": "maximize"}, {"a": 1}).settings

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begin, range(8))) == [{"a": 1}] * 8


@pytest.mark.long
def test_a_journal_holds(tmp_path):
    hold(str(tmp_path / "journal.log"), tmp_path, 0)


@pytest.mark.long
def test_postgresql_holds(tmp_path, postgresql):
    hold(postgresql, tmp_path, 1)


@pytest.mark.long
def test_halving_holds(tmp_path):
    """Which trials are sent on depends on who was first; what each has reached, and that all have ended, does not."""
    storage, trials, folder = str(tmp_path / "journal.log"), 30, tmp_path / "runs"
    disturbed(storage, folder, trials, 3, 6, 2)
    found, undisturbed = table(storage, 3), dict(undisturbed_table(tmp_path, trials, 3))
    assert sorted(hash for hash, _ in found) == sorted(undisturbed)
    reached = [len(rungs) for _, rungs in found]
    assert sum(n >= 2 for n in reached) == trials // 3
    assert reached.count(3) == trials // 3 // 3
    for hash, rungs in found:
        both = min(len(rungs), len(undisturbed[hash]))
        assert rungs[:both] == undisturbed[hash][:both]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_training_on_several_processes_ends_with_the_worker_that_was_killed(tmp_path):
    (tmp_path / "sleeping.py").write_text("import time; time.sleep(600)")
    code = ("from pathlib import Path; from core import cli; from ssl.pretrain import TOOL;"
            "from nas.training_process import run_processes;"
            f"run_processes('sleeping', cli.compose(TOOL, []), Path({str(tmp_path / 'trial')!r}), print)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    while not (found := children.read_text().split()):
        assert worker.poll() is None
        time.sleep(0.1)
    worker.kill()
    worker.wait()
    state, end = Path(f"/proc/{found[0]}/stat"), time.monotonic() + 60
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.1)
    if time.monotonic() >= end:
        os.kill(int(found[0]), signal.SIGKILL)
        pytest.fail("it is still running")
