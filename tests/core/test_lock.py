"""One command at a time in a folder."""
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import lock

ROOT = Path(__file__).resolve().parent.parent.parent
HOLD = """
import sys
from pathlib import Path
from core import lock
class Owner: pass
owner = Owner()
try:
    lock.hold(Path(sys.argv[1]), owner)
except lock.Held as error:
    print(error, flush=True)
    sys.exit(3)
print("held", flush=True)
sys.stdin.readline()
"""


class Owner:
    pass


def holder(folder: Path) -> subprocess.Popen:
    """Another process that tries for the lock, and holds it until its input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, text=True, **pipes)


def outcome(folder: Path) -> str:
    with holder(folder) as process:
        return process.communicate()[0].strip()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    owner = Owner()
    assert lock.hold(tmp_path, owner) is None
    assert f"in use by another command (process {os.getpid()} on " in outcome(tmp_path)
    del owner
    gc.collect()
    assert outcome(tmp_path) == "held"


def test_within_a_process_it_is_held_until_the_last_owner_is_gone(tmp_path):
    """As a search's worker, which resumes a run in the folder where it had one."""
    first, second = Owner(), Owner()
    lock.hold(tmp_path, first)
    lock.hold(tmp_path, second)
    del first
    gc.collect()
    assert "in use" in outcome(tmp_path)
    del second
    gc.collect()
    assert outcome(tmp_path) == "held"


def test_a_killed_process_leaves_no_lock_though_its_child_lives_on(tmp_path):
    """As worker processes do for some seconds."""
    child = HOLD.replace("sys.stdin.readline()", "import os, time\nif os.fork() == 0: time.sleep(60)\ntime.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", child, tmp_path], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert "in use" in outcome(tmp_path)
        process.kill()
        process.wait()
        assert outcome(tmp_path) == "held"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_the_lock_of_another_machine_is_waited_for(tmp_path, monkeypatch):
    """Its file server may not know yet that it died. On the same machine nothing is waited for."""
    with holder(tmp_path) as process:
        assert process.stdout.readline() == "held\n"
        (tmp_path / lock.NAME).write_text(json.dumps({"host": "elsewhere", "process": 1}))
        waits = []

        def end(seconds):
            waits.append(seconds)
            process.stdin.close()
            process.wait()

        monkeypatch.setattr(lock.time, "sleep", end)
        owner = Owner()
        assert lock.hold(tmp_path, owner) is None
        assert waits == [1]


def test_a_file_system_without_locks_is_a_note(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(lock.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", unknown)
    assert "without locks" in lock.hold(tmp_path, Owner())
    monkeypatch.setattr(lock.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(lock.errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        lock.hold(tmp_path, Owner())
