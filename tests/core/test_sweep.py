"""Sweeps as jobs: what is added to the user's words, what a job's end is called, and how a stopped job is queued again."""
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import ROOT, SMALL

from core import cli, slurm, sweep

SLURM = ["hydra/launcher=submitit_slurm"]


def test_limits_are_added_where_the_user_gave_none(monkeypatch):
    monkeypatch.setattr(slurm, "answer", lambda *_: None)
    assert sweep.defaults({}, "ssl.pretrain") == []
    assert sweep.defaults(cli.texts(SLURM), "ssl.pretrain") == [
        "hydra.launcher.timeout_min=1440", "hydra.launcher.max_num_timeout=100", "hydra.launcher.signal_delay_s=120",
        "hydra.launcher.name=ssl.pretrain",
    ]
    given = ["hydra.launcher.timeout_min=5", "+hydra.launcher.name=mine", "hydra.launcher.max_num_timeout=0"]
    assert sweep.defaults(cli.texts([*SLURM, *given]), "x") == ["hydra.launcher.signal_delay_s=120"]
    local = sweep.defaults(cli.texts(["hydra/launcher='submitit_local'"]), "x")
    assert local == ["hydra.launcher.timeout_min=1440", "hydra.launcher.name=x"]


@pytest.mark.parametrize(("partition", "minutes"), [
    (None, 60), ("short", 30), ("long", 1440), ("days", 1440), ("hours", 270), ("unknown", 1440),
])
def test_no_job_asks_for_more_than_its_partition_gives(partition, minutes, monkeypatch):
    text = "debug* 1:00:00\nshort 30:00\nlong infinite\ndays 2-00:00:00\nhours 0-04:30:00\n"
    monkeypatch.setattr(slurm, "answer", lambda *_: text)
    assert slurm.longest(partition) == minutes


@pytest.mark.parametrize(("state", "queued", "ends"), [
    ("RUNNING", True, True),  # the tool alone was stopped, or the job is in its time of grace
    ("CANCELLED", False, True),  # by somebody: it stays so
    ("PENDING", False, True),  # SLURM has queued it again itself
    ("COMPLETING", False, True),
    (None, False, False),  # no SLURM here
])
def test_a_stopped_job_is_queued_again_once_and_only_where_slurm_does_not(state, queued, ends, monkeypatch):
    asked = []

    def answer(*command):
        asked.append(command)
        return "" if command[1] == "requeue" else state and f"JobId=7 JobName=x JobState={state} Reason=None"

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "answer", answer)
    assert slurm.requeue() is ends
    assert (("scontrol", "requeue", "7") in asked) is queued


def test_outside_of_a_job_nothing_is_queued(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not slurm.requeue()


@pytest.mark.parametrize(("text", "otherwise", "why"), [
    ("note\nerror: optim.lr=-1: no\nTraceback\n  x\nRuntimeError: this run ended with code 2\n", "", "optim.lr=-1: no"),
    ("sbatch: error: Batch job submission failed: Invalid partition\n", "", "Batch job submission failed: Invalid partition"),
    ("Traceback\n  x\nKeyError: 'a'\nsrun: error: node1: task 0: Exited with exit code 1\n", "", "KeyError: 'a'"),
    ("srun: error: node1: task 0: Out Of Memory\n", "", "srun: error: node1: task 0: Out Of Memory"),
    ("note\n", "first\nlast\n", "last"),
    ("", "", "it left no word"),
])
def test_the_reason_in_a_log(text, otherwise, why):
    assert sweep.reason(text, otherwise) == why


def test_a_job_that_ended_without_a_result_is_one_line_with_its_log(tmp_path):
    log = tmp_path / "7_0_log.err"
    paths = SimpleNamespace(result_pickle=tmp_path / "none", stderr=log)
    cancelled, failed = (SimpleNamespace(job_id="7", paths=paths, state=state) for state in ("CANCELLED by 0", "FAILED"))
    assert sweep.failure(cancelled) == f"job 7: CANCELLED by 0 ({tmp_path})"
    log.write_text("error: out of words\n")
    assert sweep.failure(failed) == f"job 7: FAILED: out of words ({log})"


IN_JOB = '''
import os, signal, sys
from core import signals, sweep

queued = []
signal.signal(signal.SIGUSR2, lambda number, frame: queued.append(number))  # as submitit's

def run():
    if sys.argv[2] == "importing":
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    with signals.deferred():
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        print("saved")
        signals.answered()
    return 75

try:
    sweep.run_in_job(run)
except SystemExit as end:
    print(end.code, len(queued))
'''


@pytest.mark.parametrize("when", ["training", "importing"])
@pytest.mark.parametrize(("name", "queued"), [("SIGUSR2", 1), ("SIGTERM", 0)])
def test_in_a_job_submitit_has_its_turn_when_all_is_saved(name, queued, when):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    words = [sys.executable, "-c", IN_JOB, name, when]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.stdout == ("saved\n" if when == "training" else "") + f"75 {queued}\n", ended.stderr


@pytest.mark.long
def test_a_sweep_by_submitit_names_its_jobs_logs_and_each_failure(tmp_path):
    """As processes of this machine in SLURM's place: two runs, one of which fails."""
    words = [*SMALL[:-1], "--report=false", "--multirun", "--steps=1,-1", "hydra/launcher=submitit_local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-m", "ssl.pretrain", *words], cwd=tmp_path, env=environment, capture_output=True,
                           text=True, timeout=280)
    assert ended.returncode == 1
    *before, last = ended.stderr.splitlines()
    assert last.startswith("error: job ")
    assert "steps=-1: must be more than 0" in last
    logs = [Path(line.split("its log is ")[1]) for line in before if "its log is " in line]
    assert len(logs) == 2
    assert all(log.exists() for log in logs)
    assert "Traceback" not in ended.stderr


def test_a_signal_that_comes_after_all_is_settled_queues_nothing():
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        slurm.settle()
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
