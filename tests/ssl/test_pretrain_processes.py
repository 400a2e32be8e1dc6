"""Several processes are one run: the same curve, the same bytes after any stop, one voice."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SMALL, real, run, shortened, together

from core import checkpoint

METHODS = {
    "simclr": ["--method=simclr"],
    "moco_v2": ["--method=moco_v2", "--method.queue_size=64", "--method.bn_splits=2"],
    "moco_v3": ["--method=moco_v3"],
}
TWENTY = [*SMALL, "--steps=20", "--precision=fp32"]


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def both(*words, out: Path) -> None:
    """The run on two processes, to its end; only the main one speaks."""
    processes = together(*words, f"--out={out}", logs=out.with_name(out.name + "-logs"))
    first, second = (process.wait() for process in processes)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (second.out, second.err) == ("", "")


@pytest.mark.long
@pytest.mark.parametrize("method", shortened(METHODS))
def test_one_process_and_two_begin_alike(tmp_path, method):
    """The command in fp32, at the same global batch. Same images, same views, same statistics, same loss: the first two
    losses (the first step's rate is 0) differ by the rounding of float32 sums, 2e-6 of their size.

    No further: a rounding error decides on which side of a ReLU's corner a number falls, and in fp32 even one process
    whose weights are changed by 1e-7 is 1e-2 away after 8 steps. In float64 the curves are compared to their end
    (test_curves.py).
    """
    words = [*SMALL, "--steps=4", "--precision=fp32", *METHODS[method]]
    assert run(*words, f"--out={tmp_path / 'one'}", logs=tmp_path / "logs").code == 0
    both(*words, out=tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two[:2] == pytest.approx(one[:2], rel=2e-6)


@pytest.mark.long
@pytest.mark.parametrize("method", shortened(METHODS))
def test_both_stop_at_one_step_and_go_on(tmp_path, method):
    """SIGTERM reaches one of them; they agree, save, and the second start ends with the same bytes."""
    words = [*SMALL, "--steps=12", *METHODS[method]]
    both(*words, out=tmp_path / "alone")
    out = tmp_path / "run"
    first, second = together(*words, f"--out={out}", logs=tmp_path / "logs")
    first.until(out / "metrics.jsonl", 3)
    second.send(signal.SIGTERM)
    assert (first.wait().code, second.wait().code) == (75, 75)
    assert 3 <= checkpoint.load(out / "last.pt")["step"] < 12
    both(*words, out=out)
    assert (out / "encoder.safetensors").read_bytes() == (tmp_path / "alone" / "encoder.safetensors").read_bytes()
    assert losses(out) == losses(tmp_path / "alone")


def workers_of(launcher: subprocess.Popen) -> list[int]:
    """Process numbers of the launcher's children that train."""
    tasks = Path("/proc", str(launcher.pid), "task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in children if b"ssl.pretrain" in Path("/proc", str(pid), "cmdline").read_bytes()]


def until(launcher: subprocess.Popen, path: Path, rows: int) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_text().count("\n") < rows:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


LAUNCHED = [*SMALL, "--steps=40", "--devices=2", *METHODS["moco_v2"], "--save_minutes=0.0001"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("alone")
    both(*LAUNCHED, out=folder / "run")
    return (folder / "run" / "encoder.safetensors").read_bytes()


@pytest.mark.long
def test_devices_2_killed_and_stopped_and_finished_by_torchrun(tmp_path, expected):
    """One story, since each launch takes seconds. `devices=2`: a worker dies by SIGKILL; the same command, told to stop
    by SIGTERM, goes on from there; torchrun finishes it. The bytes are those of the run that was left alone.
    """
    out = tmp_path / "run"
    launcher = real(*LAUNCHED, f"--out={out}")
    until(launcher, out / "metrics.jsonl", 3)
    os.kill(max(workers_of(launcher)), signal.SIGKILL)
    _, err = launcher.communicate(timeout=60)  # gloo alone would wait for half an hour
    assert launcher.returncode == 1
    errors = [line for line in err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, err
    assert "was killed (SIGKILL); the same command continues from the last save" in errors[0]
    assert "Traceback" not in err

    launcher = real(*LAUNCHED, f"--out={out}")
    until(launcher, out / "metrics.jsonl", checkpoint.load(out / "last.pt")["step"] + 3)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, err
    assert "Traceback" not in err
    assert err.count("stopped by a signal at step") == 1, err
    step = checkpoint.load(out / "last.pt")["step"]
    assert f"going on from step {step}" not in err
    assert step < 40

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command += ["-m", "ssl.pretrain", *LAUNCHED, f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"going on from step {step}" in done.stderr
    assert done.stdout.count("# moco_v2 on synthetic") == 1
    assert (out / "encoder.safetensors").read_bytes() == expected
    assert len(losses(out)) == 40


@pytest.mark.long
def test_a_mistake_is_said_once(tmp_path):
    launcher = real(*SMALL, "--devices=2", "--batch_size=2000", f"--out={tmp_path / 'run'}")
    _, err = launcher.communicate(timeout=200)
    assert launcher.returncode == 2
    assert err.splitlines() == ["error: batch_size=2000 is larger than the data: 1440 images to train on"]
    assert not (tmp_path / "run").exists()
