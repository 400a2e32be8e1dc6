"""Sweeps and searches of docs/cluster.md on a real SLURM of two nodes, in CPU size."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SMALL

pytestmark = [pytest.mark.cluster, pytest.mark.long]
RUN = [*SMALL, "--method=simclr", "--precision=fp32", "--device=cpu", "--report=false"]
SWEEP = ["hydra/launcher=submitit_slurm"]


def python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


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


def test_a_search_goes_on_when_one_of_its_jobs_is_cancelled(slurm, tmp_path, monkeypatch):
    """Two jobs on one journal; the other resumes the trial of the one that is cancelled, and does all that are left."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ["--study=s", "--data=digits", "--space=tabular", "--sampler=random", "--trials=4", "--epochs=2", "--rungs=2"]
    words += ["--factor=2", "--interval=5", "--batch_size=64", "--method.hidden=32", "--method.dim=16", "--limit=macs:0.3"]
    words += ["--tune=lr", "--parallel=1", "node=0,1"]
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
