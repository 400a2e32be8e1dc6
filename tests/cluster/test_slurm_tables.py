"""Cells as jobs of a real SLURM: stopped, preempted and out of time, a job saves, and one job stays one job."""
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.long]
TOOL = '''
import json, os, pathlib, sys, time
from core import signals
settings = dict(word[2:].split("=", 1) for word in sys.argv[1:])
out = pathlib.Path(settings["out"])
out.mkdir(parents=True, exist_ok=True)
state = out / "state"
at = int(state.read_text()) if state.exists() else 0
with signals.installed(), signals.deferred():
    for step in range(at, int(settings["steps"])):
        with open("steps.txt", "a") as file:
            file.write(f"{step} {os.environ['SLURM_JOB_ID']}\\n")
        time.sleep(1)
        if signals.requested():
            state.write_text(str(step + 1))
            signals.answered()
            sys.exit(75)
(out / "result.json").write_text(json.dumps({"value": 1}))
'''
TABLE = """
title: Steps
about: A second each.
variables: {steps: 30, seeds: [1]}
cells:
  first:
    tool: stepping.work
    settings: {steps: "{steps}", seed: "{seed}", out: "{out}"}
    files: {scores: "{out}/result.json"}
columns:
  value: {title: value, digits: 0}
rows:
  - name: one
    with: {}
    values: {value: "{first.scores}#value"}
"""


@pytest.fixture
def place(slurm, tmp_path, monkeypatch):
    (tmp_path / "stepping").mkdir()
    (tmp_path / "stepping" / "work.py").write_text(TOOL)
    (tmp_path / "steps.yaml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    return tmp_path


def begin(steps: int, *settings: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "experiments.reproduce", "--table=steps.yaml", "--launcher=slurm", "--set", f"steps={steps}"]
    return subprocess.Popen([*words, "--slurm", *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(place: Path) -> list[tuple[int, str]]:
    path = place / "steps.txt"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(step), job) for step, job in rows]


def until(place: Path, count: int, runner: subprocess.Popen) -> str:
    """Wait for so many steps.  → the job of the last one"""
    while len(done(place)) < count:
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.5)
    return done(place)[-1][1]


def test_a_tool_that_is_stopped_saves_and_its_job_is_queued_again(slurm, place):
    runner = begin(12, "timeout_min=10")
    job = until(place, 3, runner)
    slurm.call("scancel", "--signal=USR1", job)
    _, err = runner.communicate(timeout=500)
    assert runner.returncode == 0, err
    assert {j for _, j in done(place)} == {job}
    assert [step for step, _ in done(place)] == list(range(12)), "each step once: it saved, and went on there"


def test_a_job_that_somebody_cancels_is_tried_once_more_and_counted(slurm, place):
    runner = begin(500, "timeout_min=10")
    first = until(place, 2, runner)
    slurm.call("scancel", first)
    count = len(done(place))
    second = until(place, count + 3, runner)
    assert second != first
    slurm.call("scancel", second)
    _, err = runner.communicate(timeout=200)
    assert runner.returncode == 1
    assert re.search(rf"failed: .*job {second}: CANCELLED", err)
    assert len({j for _, j in done(place)}) == 2


def test_ctrl_c_cancels_the_jobs_and_ends_soon(slurm, place):
    runner = begin(500, "timeout_min=10")
    job = until(place, 2, runner)
    runner.send_signal(2)
    _, err = runner.communicate(timeout=60)
    assert runner.returncode == 75, err
    assert not slurm.call("squeue", "-h", "-j", job, "-t", "RUNNING,PENDING")


def test_out_of_time_it_saves_and_its_job_is_queued_again(slurm, place):
    runner = begin(100, "timeout_min=2", "slurm_signal_delay_s=30")  # SLURM may send it a minute early
    _, err = runner.communicate(timeout=500)
    assert runner.returncode == 0, err
    assert len({job for _, job in done(place)}) == 1
    assert [step for step, _ in done(place)] == list(range(100))


def test_what_a_site_wants_is_handed_through(slurm, place):
    more = ["slurm_account=lab", "slurm_qos=long", "slurm_gres=license:1", "slurm_constraint=node2s", "slurm_partition=debug"]
    runner = begin(2, *more, "slurm_exclude=node1", "slurm_additional_parameters={nodelist: node2}")
    job = until(place, 1, runner)
    _, err = runner.communicate(timeout=200)
    assert runner.returncode == 0, err
    found = slurm.show(job)
    expected = {"Account": "lab", "TresPerNode": "gres:license:1", "Features": "node2s", "Partition": "debug"}
    expected |= {"ReqNodeList": "node2", "ExcNodeList": "node1", "NodeList": "node2"}
    assert {name: found.get(name) for name in expected} == expected
    (script,) = place.rglob("*_submission.sh")
    assert "#SBATCH --qos=long\n" in script.read_text(), "a SLURM without accounts forgets it"
