"""A signal that asks to stop, in every phase of a run: one line, code 75, and the same command does the rest."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SMALL, Started, real, run, shortened, start, together

from core import checkpoint
from core.signals import NAMES

HERE = {"PYTHONPATH": str(Path(__file__).parent)}
BEFORE = "before the first step; nothing was lost: the same command starts again"
SHORT = [*SMALL, "--steps=3", "--report=false"]
LABELLED = ["--data=digits", *SMALL[2:], "--steps=3"]  # with scores in the report


def signalled(*words, out: Path, phase: str, name: str, **environment: str):
    said = HERE | {"PHASE": phase, "SIGNAL": name} | environment
    return run(*words, f"--out={out}", logs=out.with_name("logs"), module="signalled", **said)


@pytest.mark.parametrize(("phase", "name"), [
    ("words", "SIGHUP"), ("data", "SIGUSR1"), ("data", "SIGINT"), ("baselines", "SIGUSR2"), ("baselines", "SIGTERM"),
])
def test_before_the_first_step(tmp_path, phase, name):
    ended = signalled(*SHORT, out=tmp_path / "run", phase=phase, name=name)
    assert ended.code == 75
    assert ended.err.splitlines()[-1] == f"stopped by {name} {BEFORE}"
    assert "Traceback" not in ended.err
    if name == "SIGUSR2":  # a folder that the run has begun
        assert run(*SHORT, f"--out={tmp_path / 'run'}", logs=tmp_path / "again").code == 0


@pytest.mark.parametrize("name", NAMES)
def test_in_training_it_saves(tmp_path, name):
    ended = signalled(*SHORT, out=tmp_path / "run", phase="first step", name=name)
    assert ended.code == 75
    assert ended.err.splitlines()[-1] == "stopped by a signal at step 1 of 3; saved: the same command resumes"
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 1


def test_while_it_saves(tmp_path):
    words = [*SHORT, "--save_minutes=0.0001"]
    ended = signalled(*words, out=tmp_path / "run", phase="save", name="SIGTERM")
    assert ended.code == 75
    assert ended.err.splitlines()[-1] == "stopped by a signal at step 2 of 3; saved: the same command resumes"
    assert run(*words, f"--out={tmp_path / 'run'}", logs=tmp_path / "again").code == 0


@pytest.mark.parametrize(("phase", "name"), shortened([("encoder", "SIGTERM"), ("report", "SIGUSR1")]))
def test_after_training_the_same_command_does_the_rest(tmp_path, phase, name):
    ended = signalled(*LABELLED, out=tmp_path / "run", phase=phase, name=name)
    assert ended.code == 75
    assert ended.err.splitlines()[-1] == f"stopped by {name} after training, which is saved: the same command does the rest"
    assert not (tmp_path / "run" / "report.md").exists()
    again = run(*LABELLED, f"--out={tmp_path / 'run'}", logs=tmp_path / "again")
    assert again.code == 0
    assert (tmp_path / "run" / "report.md").exists()


def test_at_the_last_step_the_report_waits_for_the_next_start(tmp_path):
    ended = signalled(*SMALL, "--steps=1", out=tmp_path / "run", phase="step", name="SIGTERM")
    assert ended.code == 75
    # the signal may be handled in the loop, or just behind it
    where = ended.err.splitlines()[-1].removeprefix("stopped by ").removesuffix(": the same command does the rest")
    assert where in ("a signal at step 1 of 1; saved", "SIGTERM after training, which is saved")
    assert run(*SMALL, "--steps=1", f"--out={tmp_path / 'run'}", logs=tmp_path / "again").code == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_while_torch_is_imported(tmp_path):
    """As soon as there is a handler at all."""
    process = real(*SHORT, f"--out={tmp_path / 'run'}")
    bit = 1 << (signal.SIGUSR1 - 1)
    caught = 0
    while not caught & bit:
        assert process.poll() is None
        status = Path("/proc", str(process.pid), "status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        time.sleep(0.001)
    assert not [line for line in Path("/proc", str(process.pid), "maps").read_text().splitlines() if "libtorch" in line]
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, f"stopped by SIGUSR1 {BEFORE}\n")


def test_a_worker_that_decodes_survives_a_signal_to_every_process(tmp_path):
    """SLURM sends a step's signal to all of its processes; the images' worker must not die of it before the run has saved."""
    import numpy as np
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.fromarray(np.full((20, 20, 3), 9 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    words = [*SMALL[2:], "--steps=100000", "--data=folder", f"--data.root={tmp_path / 'photos'}", "--batch_size=8"]
    process = start(*words, "--workers=1", "--image_size=16", f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    process.until(tmp_path / "run" / "metrics.jsonl", 3, timeout=200)
    everyone = [*children(process), process.pid]
    assert len(everyone) > 1
    for number in (signal.SIGTERM, signal.SIGUSR2):
        for pid in everyone:
            os.kill(pid, number)
    ended = process.wait()
    assert ended.code == 75
    assert ended.err.splitlines()[-1].startswith("stopped by a signal at step ")
    assert not [pid for pid in everyone if Path("/proc", str(pid)).exists() and pid != process.pid]


def children(process: Started) -> list[int]:
    tasks = Path("/proc", str(process.pid), "task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


# ---- several processes


@pytest.mark.parametrize("phase", shortened(["data", "report"]))
def test_both_of_two_processes_stop_outside_of_training(tmp_path, phase):
    words = [*LABELLED, f"--out={tmp_path / 'run'}"]
    both = together(*words, logs=tmp_path / "logs", module="signalled", PHASE=phase, SIGNAL="SIGUSR2", **HERE)
    first, second = (process.wait() for process in both)
    assert (first.code, second.code) == (75, 75), first.err + second.err
    assert first.err.count("stopped by SIGUSR2") == 1
    assert "Traceback" not in first.err + second.err


def test_of_two_processes_one_that_is_stopped_alone_ends_both(tmp_path):
    """The other loses its connection: one line."""
    words = [*LABELLED, f"--out={tmp_path / 'run'}"]
    more = HERE | {"PHASE": "baselines", "SIGNAL": "SIGTERM", "RANKS": "0"}
    first, second = (process.wait() for process in together(*words, logs=tmp_path / "logs", module="signalled", **more))
    assert (first.code, second.code) == (75, 1), first.err + second.err
    assert second.line.startswith("error: another process died or was stopped (connection closed: ")


@pytest.mark.long
def test_a_stop_ends_though_the_other_process_hangs(tmp_path):
    words = [*SMALL, "--steps=100000", f"--out={tmp_path / 'run'}"]
    both = together(*words, logs=tmp_path / "logs", module="signalled", PHASE="report", SIGNAL="SIGTERM", **HERE)
    both[0].until(tmp_path / "run" / "metrics.jsonl", 3, timeout=200)
    both[1].send(signal.SIGSTOP)
    both[0].send(signal.SIGTERM)
    ended = both[0].wait(timeout=100)
    both[1].send(signal.SIGKILL)
    both[1].wait()
    assert ended.code == 75
    assert "stopped by SIGTERM, but another process does not answer" in ended.err


# ---- the handlers themselves

SCRIPT = '''
import os, signal, subprocess, sys
from core import signals

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

'''


def script(text: str, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", SCRIPT + text]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


def test_nohup_is_respected():
    text = "with signals.installed():\n    send('SIGHUP')\n    print(signals.requested())\n"
    ended = script(text, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert (ended.stdout, ended.returncode) == ("None\n", 0)


def test_what_is_deferred_ends_and_then_stops():
    ended = script('''
try:
    with signals.installed():
        with signals.deferred():
            send("SIGUSR2")
            with signals.deferred():
                print("inner")
            print("outer")
        print("never")
except signals.StopRequest as stop:
    print(stop.number == signal.SIGUSR2, isinstance(stop, Exception))
''')
    assert ended.stdout == "inner\nouter\nTrue False\n", ended.stderr


def test_used_as_a_library_a_signal_that_was_deferred_reaches_the_handler_that_was_there():
    ended = script('''
signal.signal(signal.SIGUSR1, lambda *_: print("theirs"))
with signals.deferred():
    send("SIGUSR1")
    print("inside")
try:
    with signals.deferred():
        send("SIGINT")
except KeyboardInterrupt as end:
    print(type(end).__name__)
''')
    assert ended.stdout == "inside\ntheirs\nKeyboardInterrupt\n", ended.stderr


def test_a_second_ctrl_c_ends_what_is_deferred():
    ended = script('''
try:
    with signals.installed(), signals.deferred():
        send("SIGTERM")
        send("SIGUSR1")
        send("SIGINT")
except KeyboardInterrupt as end:
    print(type(end).__name__)
''')
    assert ended.stdout == "KeyboardInterrupt\n", ended.stderr


def test_one_signal_after_another_interrupts_once():
    """Cleaning up after the first must not be broken off by the next: a scheduler sends several."""
    ended = script('''
try:
    with signals.installed():
        try:
            send("SIGUSR2")
        finally:
            send("SIGTERM")
            print("cleaned")
except signals.StopRequest as stop:
    print(stop)
''')
    assert ended.stdout == "cleaned\nstopped by SIGUSR2; nothing is lost: the same command starts again\n"


def test_children_understand_signals_as_if_started_alone():
    """One that is forked leaves it to its parent, and one that is executed has the system's handlers."""
    ended = script('''
with signals.installed():
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGUSR1)
    print(child.wait() == -signal.SIGUSR1)
    pid = os.fork()
    if not pid:
        send("SIGUSR2")
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
''')
    assert ended.stdout == "True\n7\n", ended.stderr


def test_a_stop_that_somebody_swallows_ends_the_process_nevertheless():
    ended = script('''
import time
with signals.installed():
    signals.patience(0.2)
    try:
        send("SIGTERM")
    except BaseException:
        pass
    time.sleep(50)
''')
    assert (ended.returncode, ended.stderr) == (75, "stopped by SIGTERM; nothing is lost: the same command starts again\n")
