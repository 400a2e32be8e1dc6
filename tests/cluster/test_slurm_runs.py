"""Runs, sweeps and searches of docs/cluster.md on a real SLURM of two nodes, in CPU size."""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SMALL

from core import checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.long]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
RUN = [*SMALL, "--method=simclr", "--precision=fp32", "--device=cpu", "--report=false"]
SWEEP = ["hydra/launcher=submitit_slurm"]


def python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def rows(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def undisturbed(out: Path, *words: str, nodes: int = 2) -> None:
    """The run as one step, of a task a node."""
    command = ["srun", f"--nodes={nodes}", "--ntasks-per-node=1", *python("ssl.pretrain", *RUN, *words, f"--out={out}")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


def script(place: Path, words: list[str]) -> Path:
    """The batch script of docs/cluster.md, with this test's size and run in place of the page's."""
    (text,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```", PAGE, re.M | re.S)
    size = "--nodes 4 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 12"
    command = re.search(r"srun --cpus-per-task 12 (.*?) \|\|", text)
    assert size in text
    assert command
    text = text.replace(size, "--nodes 2 --ntasks-per-node 1").replace(command[0], f"srun {' '.join(words)} ||")
    path = place / "job.sh"
    path.write_text(text)
    return path


def test_signalled_and_preempted_a_job_ends_with_the_same_bytes(slurm, tmp_path):
    """One job over two nodes: saves at USR1 and queues itself again; saves when it is preempted, and SLURM queues it again."""
    steps = "--steps=300"
    undisturbed(tmp_path / "whole", steps)
    out = tmp_path / "run"
    path = script(tmp_path, python("ssl.pretrain", *RUN, steps, f"--out={out}"))
    log = tmp_path / "job.log"
    job = subprocess.run(
        ["sbatch", "--parsable", f"--chdir={ROOT}", f"--output={log}", str(path)], capture_output=True, text=True, check=True,
    ).stdout.strip()
    try:
        slurm.await_(lambda: len(rows(out)) >= 5, 120)
        slurm.call("scancel", "--signal=USR1", job)
        slurm.await_(lambda: slurm.show(job)["Restarts"] == "1", 60)
        saved = checkpoint.load(out / "last.pt")["step"]
        assert 5 <= saved < 300
        slurm.await_(lambda: len(rows(out)) >= saved + 5, 120)
        high = subprocess.run(["srun", "-p", "high", "-N2", "--exclusive", "true"], capture_output=True, text=True, timeout=200)
        assert high.returncode == 0, high.stderr
        slurm.await_(lambda: slurm.show(job)["Restarts"] == "2", 60)
        assert saved < checkpoint.load(out / "last.pt")["step"] < 300
        assert slurm.ended(job)["JobState"] == "COMPLETED", log.read_text()
    finally:
        slurm.call("scancel", job, check=False)
    text = log.read_text()
    assert len(re.findall(r"stopped by a signal at step \d+ of 300; saved", text)) == 2, text
    for name in ("encoder.safetensors", "method.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert [row["loss"] for row in rows(out)] == [row["loss"] for row in rows(tmp_path / "whole")]


def test_a_job_whose_node_is_lost_goes_on_another(slurm, tmp_path):
    """From what was saved last. Nothing was asked to stop: its processes are gone, and the node does not answer."""
    steps = ["--steps=300", "--save_minutes=0.02"]
    undisturbed(tmp_path / "whole", *steps, nodes=1)
    out, log = tmp_path / "run", tmp_path / "job.log"
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\nsrun {shlex.join(python('ssl.pretrain', *RUN, *steps, f'--out={out}'))}\n")
    words = ["--parsable", "--requeue", "--open-mode=append", f"--chdir={ROOT}", f"--output={log}", str(tmp_path / "job.sh")]
    job = slurm.call("sbatch", *words).strip()
    try:
        slurm.await_(lambda: (out / "last.pt").exists() and len(rows(out)) >= 20, 120)
        lost = slurm.show(job)["NodeList"]
        with slurm.lost(lost):
            saved = checkpoint.load(out / "last.pt")["step"]
            assert saved < 300
            found = slurm.ended(job)
    finally:
        slurm.call("scancel", job, check=False)
    assert found["JobState"] == "COMPLETED", log.read_text()
    assert (found["Restarts"], found["NodeList"]) == ("1", *({"node1", "node2"} - {lost}))
    assert f"going on from step {saved}" in log.read_text()
    for name in ("encoder.safetensors", "method.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def sweep(place: Path, *words: str, module: str = "ssl.pretrain", cwd: Path = ROOT) -> subprocess.Popen:
    command = python(module, *words, "--multirun", *SWEEP, f"hydra.sweep.dir={place / 'sweep'}")
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_sweep_hands_over_what_a_site_wants_and_its_runs_end(slurm, tmp_path):
    more = ["account=lab", "qos=long", "gres=license:1", "constraint=node2s", "exclude=node1"]
    more = [f"hydra.launcher.{word}" for word in more] + ["+hydra.launcher.additional_parameters={nodelist: node2}"]
    run = sweep(tmp_path, *RUN, "seed=0,1", f"--out={tmp_path}/run-${{seed}}", *more)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    jobs = re.findall(r"^job (\w+): its log is (.+)$", err, re.M)
    assert len(jobs) == 2, err
    assert all(Path(log).exists() for _, log in jobs)
    assert all((tmp_path / f"run-{seed}" / "encoder.safetensors").exists() for seed in (0, 1))
    found = slurm.show(jobs[0][0])
    expected = {"Account": "lab", "TresPerNode": "gres:license:1", "Features": "node2s", "NodeList": "node2"}
    expected |= {"ExcNodeList": "node1", "ReqNodeList": "node2", "JobName": "ssl.pretrain"}
    assert {name: found.get(name) for name in expected} == expected
    (script,) = tmp_path.rglob("*_submission.sh")
    assert "#SBATCH --qos=long\n" in script.read_text(), "a SLURM without accounts forgets it"


@pytest.mark.parametrize(("words", "reason"), [
    (["hydra.launcher.partition=nowhere"], "invalid partition"),
    (["hydra.launcher.gres=nothing:1"], "gres"),
])
def test_what_slurm_refuses_is_one_line(slurm, tmp_path, words, reason):
    run = sweep(tmp_path, *RUN, "seed=0", f"--out={tmp_path}/run", *words)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 1, err
    lines = [line for line in err.splitlines() if not line.startswith(("plan: ", "sbatch: "))]
    assert len(lines) == 1, err
    assert reason in lines[0].lower()


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_a_search_goes_on_when_one_of_its_jobs_is_cancelled(slurm, tmp_path, monkeypatch, request, storage):
    """Two jobs on one storage; the other resumes the trial of the one that is cancelled, and does all that are left."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ["--study=s", "--data=digits", "--space=tabular", "--sampler=random", "--trials=4", "--epochs=2", "--rungs=2"]
    words += ["--factor=2", "--interval=5", "--batch_size=64", "--method.hidden=32", "--method.dim=16", "--limit=macs:0.3"]
    words += ["--tune=lr", "--parallel=1", "node=0,1"]
    if storage == "postgresql":
        words += [f"--storage={request.getfixturevalue('postgresql')}"]
    run = sweep(tmp_path, *words, module="nas.search", cwd=tmp_path)
    trained = tmp_path / "runs" / "nas" / "s"
    try:
        slurm.await_(lambda: len(running(slurm)) == 2 and list(trained.rglob("metrics.jsonl")), 200)
        first = running(slurm)[0]
        slurm.call("scancel", first)
        _, err = run.communicate(timeout=400)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 1, err
    assert f"job {first}: CANCELLED" in err
    found = json.loads((trained / "results.json").read_text())
    done = [trial for trial in found["trials"] if trial["rungs"]]
    assert len(done) == 4
    assert found["epochs"] == sum(trial["rungs"][-1]["epochs"] for trial in done), "none was lost or trained twice"


def running(slurm) -> list[str]:
    return slurm.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()
