"""torchrun with a range of nodes: one of three is lost, and the run goes on with two."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SMALL, together
from slurm_server import free_ports

RUN = [*SMALL, "--method=simclr", "--precision=fp32", "--device=cpu", "--report=false", "--batch_size=24", "--workers=0"]
STEPS, HALF, AN_EPOCH = 120, 60, 1440 // 24
RUN += [f"--steps={STEPS}", "--evals=2"]  # the first half is saved when it is evaluated


def agents(out: Path, logs: Path) -> list[subprocess.Popen]:
    """Three machines of one process and one core each, on this one. The first of them is where they meet."""
    (port,) = free_ports(1)
    words = ["--nnodes=2:3", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-id=elastic"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    logs.mkdir()
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for number in range(3):
        meeting = f"--rdzv-conf=last_call_timeout=30,keep_alive_interval=1,is_host={int(number == 0)}"
        core = cores[number % len(cores)]
        command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "torch.distributed.run", *words]
        command += [meeting, "-m", "ssl.pretrain", *RUN, f"--out={out}"]
        with open(logs / str(number), "w") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
    return started


def lose(agent: subprocess.Popen) -> None:
    """The agent and its process at once, as if the power went."""
    tasks = Path("/proc", str(agent.pid), "task").glob("*/children")
    for pid in [agent.pid, *(int(child) for task in tasks for child in task.read_text().split())]:
        os.kill(pid, signal.SIGKILL)
    agent.wait()


def lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def output(logs: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(logs.iterdir()))


@pytest.mark.long
def test_a_machine_is_lost_and_the_others_go_on_to_the_same_bytes(tmp_path):
    out, logs = tmp_path / "run", tmp_path / "logs"
    started = agents(out, logs)
    try:
        deadline = time.monotonic() + 200
        while len(lines(out / "metrics.jsonl")) < HALF + 5:
            assert time.monotonic() < deadline, output(logs)
            assert all(agent.poll() is None for agent in started), output(logs)
            time.sleep(0.05)
        lose(started[2])
        for agent in started[:2]:
            assert agent.wait(300) == 0, output(logs)
    finally:
        for agent in started:
            if agent.poll() is None:
                lose(agent)
    oracle = tmp_path / "oracle"
    for size, more in ((3, [f"--pause_at={HALF / AN_EPOCH}"]), (2, [])):
        processes = together(*RUN, *more, f"--out={oracle}", logs=tmp_path / f"oracle-{size}", size=size)
        assert [process.wait().code for process in processes] == [0] * size
    for name in ("encoder.safetensors", "method.safetensors"):
        assert (out / name).read_bytes() == (oracle / name).read_bytes(), name
    losses = [[json.loads(line)["loss"] for line in lines(folder / "metrics.jsonl")] for folder in (out, oracle)]
    assert losses[0] == losses[1]
