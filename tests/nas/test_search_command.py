"""`python -m nas.search` as a user runs it: a study, killed and resumed, its report; mistakes in one line."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, real, run

from core import cli
from nas import report, search
from nas.workers import WorkerPool
from vision import artifact

OPTIONS = ["--study=s", "--data=digits", "--space=tabular", "--sampler=random", "--trials=4", "--epochs=2", "--rungs=2"]
OPTIONS += ["--factor=2", "--interval=5", "--batch_size=64", "--method.hidden=32", "--method.dim=16", "--limit=macs:0.3"]
OPTIONS += ["--tune=lr"]


def begin(folder: Path, *more: str, module: str = "nas.search"):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return real(*OPTIONS, *more, module=module, cwd=folder, env=environment)


def results(folder: Path) -> dict:
    return json.loads((folder / "runs" / "nas" / "s" / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    job = begin(folder)
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert "front: trial" in err
    assert "report: runs/nas/s/report.html" in out
    return folder


@pytest.mark.long
def test_it_leaves_table_pictures_and_encoders_that_every_tool_takes(whole, tmp_path):
    place, found = whole / "runs" / "nas" / "s", results(whole)
    trained = [t for t in found["trials"] if t["rungs"]]
    assert len(trained) == 4
    assert {len(t["rungs"]) for t in trained} == {1, 2}
    assert all(t["costs"]["macs"] <= 0.3 for t in trained)
    assert found["epochs"] == sum(t["rungs"][-1]["epochs"] for t in trained)
    assert found["settings"]["objectives"] == "knn,macs"
    for name in ("report.md", "report.html", "front.svg", "history.svg"):
        assert (place / name).stat().st_size > 500
    assert "searched_resnet" in (place / "report.md").read_text()
    assert (place / "encoder.safetensors").read_bytes() == (
        place / "front" / f"{found['front'][0]:05d}" / "encoder.safetensors").read_bytes()
    for number in found["front"]:
        encoder, card = artifact.load(place / "front" / f"{number:05d}" / "encoder.safetensors")
        assert encoder(torch.zeros(1, 1, 8, 8)).shape == (1, card.dim)
        options = (place / "trials" / f"{number:05d}" / "config.yaml").read_text()
        assert "report: false" in options  # a run of ssl.pretrain like any other
    assert all(t["seconds"] > 0 for t in trained)
    assert not list(place.rglob("last.pt")), "nothing is resumed from trials that are over"
    assert {path.parent.name for path in place.rglob("method.safetensors")} == {f"{t['number']:05d}" for t in trained}
    found = place / "encoder.safetensors"
    options = [f"--teacher={found}", f"--student={found}", "--method=seed", "--method.queue_size=64", "--data=digits"]
    options += ["--steps=2", "--evals=1", "--batch_size=16", "--cache=none", f"--out={tmp_path / 'student'}"]
    assert run(*options, logs=tmp_path / "logs", module="distill.train").code == 0
    assert artifact.load(tmp_path / "student" / "encoder.safetensors")[0].spec == artifact.load(found)[0].spec


@pytest.mark.long
def test_killed_with_its_workers_it_resumes_to_the_same_study(whole, tmp_path):
    job = begin(tmp_path)
    log = tmp_path / "runs" / "nas" / "s" / "trials" / "00001" / "metrics.jsonl"
    limit = time.monotonic() + 120
    while not log.exists():
        assert time.monotonic() < limit
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    again = begin(tmp_path)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    keep = ("number", "state", "params", "costs", "rungs", "hash", "reason")
    tables = [[{name: t[name] for name in keep} for t in results(folder)["trials"]] for folder in (whole, tmp_path)]
    assert tables[0] == tables[1]
    for number in results(whole)["front"]:
        places = [folder / "runs" / "nas" / "s" / "front" / f"{number:05d}" for folder in (whole, tmp_path)]
        states = [artifact.load(place / "encoder.safetensors")[0].state_dict() for place in places]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.long
def test_a_finished_study_trains_its_best_again_with_fresh_seeds(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    before = results(whole)
    job = begin(folder, "--verify=1")
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    after = results(folder)
    assert after["trials"] == before["trials"]
    assert after["front"] == before["front"]
    assert 1 <= len(after["replicates"]) <= 4
    assert "too few here to tell" in out
    for replicate in after["replicates"]:
        of = before["trials"][replicate["of"]]
        assert (replicate["seed"], replicate["hash"], replicate["state"]) == (1, of["hash"], "COMPLETE")
        assert [rung["epochs"] for rung in replicate["rungs"]] == [2.0]
        place = folder / "runs" / "nas" / "s" / "trials"
        assert "seed: 1" in (place / f"{replicate['number']:05d}" / "config.yaml").read_text()
        starts = [artifact.load(place / f"{of['hash']}{end}.safetensors")[0].state_dict() for end in ("", "-seed1")]
        assert any(not torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


@pytest.mark.long
def test_a_trial_on_two_processes_judged_without_labels(tmp_path):
    options = "--trials=2", "--rungs=1", "--epochs=1", "--devices=2", "--objectives=loss,rankme,macs", "--checkpoints=all"
    job = begin(tmp_path, *options)
    _, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    for t in results(tmp_path)["trials"]:
        assert 0 < t["rungs"][0]["figures"]["loss"] < 10
        assert t["rungs"][0]["figures"]["rankme"] >= 1
        assert (tmp_path / "runs" / "nas" / "s" / "trials" / f"{t['number']:05d}" / "last.pt").exists()
        assert "on 2 × cpu" in (tmp_path / "runs" / "nas" / "s" / "trials" / f"{t['number']:05d}.log").read_text()


@pytest.mark.long
def test_a_search_is_a_function_from_settings_to_a_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = ["study=s", "data=digits", "space=tabular", "strategy=proxy", "proxy=macs", "trials=2", "interval=5"]
    result = search.search(cli.compose(search.TOOL, [*options, "objectives='proxy,macs'"]))
    assert [len(r.rungs) for r in result.trials] == [1, 1]
    assert {r.number for r in result.front} <= {0, 1}
    assert (result.encoder, result.encoders, result.folder) == (None, {}, Path("runs/nas/s"))  # nothing was trained
    assert result.summary.startswith("# s\n\n2 trained")
    assert "The best is trial " in (result.folder / "report.md").read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_multirun_joins_one_study(tmp_path):
    """As `hydra/launcher=submitit_slurm` would on nodes of a cluster; here one after the other."""
    job = begin(tmp_path, "--multirun", "--node=0,1", "--strategy=proxy", "--proxy=macs", "--objectives=proxy")
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert out.count("# s") == 2
    assert len([t for t in results(tmp_path)["trials"] if t["rungs"]]) == 4


@pytest.mark.long
def test_a_finished_study_reports_again_by_its_name_alone(whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    before = (whole / "runs" / "nas" / "s" / "report.md").read_text()
    for options in (["--study=s"], ["--study", "s", "--storage", "runs/nas/s/journal.log"]):
        assert report_of(options) == 0
        assert capsys.readouterr().out.startswith("# s\n\n4 trained")
        found, end = (whole / "runs" / "nas" / "s" / "report.md").read_text(), "## How it was measured"
        assert found.partition(end)[0] == before.partition(end)[0]
        assert results(whole)["settings"]["factor"] == 2


@pytest.mark.parametrize(("options", "message"), [
    (["--study=t"], "study=t: runs/nas holds s"),
    (["--study=../s"], "study=../s: runs/nas holds s"),
    (["--study=t", "--storage=runs/nas/s/journal.log"], "study=t: storage=runs/nas/s/journal.log holds s"),
    (["--study=s", "--storage=none.log"], "storage=none.log: there is no such file"),
    (["--study=s", "--storage=sqlite:///none.db"], "storage=sqlite:///none.db: there is no such file"),
    (["--study=s", "--storage=sqlite:///empty.db"], "storage=sqlite:///empty.db: "),
])
@pytest.mark.slow
def test_a_report_of_no_study_is_one_line_and_leaves_nothing(options, message, whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    (whole / "empty.db").touch()
    before = sorted(whole.rglob("*"))
    assert report_of(options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert sorted(whole.rglob("*")) == before
    assert not (whole / "empty.db").read_bytes()


def report_of(options: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["report", *options])
        return report.main()


@pytest.mark.slow
def test_a_report_holds_the_front_of_now_and_names_what_is_elsewhere(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    place, ahead = tmp_path / "runs" / "nas" / "s", results(whole)["front"]
    names = [f"{number:05d}" for number in ahead]
    (place / "front" / "99999").mkdir()  # on the front of an earlier report
    assert report_of(["--study=s"]) == 0
    assert "not on this machine" not in capsys.readouterr().out
    assert sorted(path.name for path in (place / "front").iterdir()) == sorted(names)
    shutil.rmtree(place / "trials")
    shutil.rmtree(place / "front" / names[0])
    assert report_of(["--study=s"]) == 0
    assert f"not on this machine: the front's encoders of trials {ahead[0]}\n" in capsys.readouterr().out
    assert not (place / "encoder.safetensors").exists()  # it would be another one's
    assert sorted(path.name for path in (place / "front").iterdir()) == sorted(names[1:])


@pytest.mark.long
def test_a_finished_study_takes_no_other_settings(whole):
    job = begin(whole, "--epochs=3")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert err.strip() == "error: study=s was begun with other settings (epochs: 2.0 → 3.0); give another study"


@pytest.mark.parametrize(("options", "message"), [
    (["--objectives=knn,speed"], "objectives=knn,speed: must be some of knn, logistic"),
    (["--objectives=macs"], "with one that training shows"),
    (["--limit=macs"], "limit=macs: written name:number"),
    (["--limit=knn:80"], "limit=knn:80: there are parameters, macs"),
    (["--sampler=cmaes"], "sampler=cmaes: must be tpe or gp"),
    (["--rungs=0"], "rungs=0: must be more than 0"),
    (["--factor=1"], "factor=1: must be 2 or more"),
    (["--study=a/b"], "study=a/b: must be a name"),
    (["--steps=10"], "steps=10: must be left out: a search counts in epochs"),
    (["--strategy=proxy"], "objectives=knn,macs: must be proxy and costs alone"),
    (["--strategy=proxy", "--objectives=proxy,macs"], "proxy=none: must be one that scores an encoder by itself"),
    (["--trial=3"], "there is no setting 'trial'; did you mean trials?"),
    (["--limit=macs:nan"], "limit=macs:nan: macs must be a number above 0"),
    (["--limit=latency:2,macs:inf"], "limit=latency:2,macs:inf: macs must be a number above 0"),
    (["--limit=macs:-1"], "limit=macs:-1: macs must be a number above 0"),
    (["--encoder=resnet18"], "encoder=resnet18: must be left out: space says which encoders"),
    (["--stem=half"], "stem=half: must be left out"),
    (["--out=runs/x"], "out=runs/x: must be left out: a study lies in runs/nas/<study>"),
    (["--pause_at=3"], "pause_at=3.0: must be left out: rungs says where trials pause"),
    (["--scratch"], "scratch=True: must be left out"),
    (["--pretrained"], "pretrained=True: must be left out"),
    (["--resume=never"], "resume=never: must be auto"),
    (["--space=resnets"], "space=resnets: there are resnet, resnetd, mobile, vit, tabular, elastic, names:"),
    (["--space=names:"], "space=names:: written names:resnet18"),
    (["--space=names:resnet18,"], "space=names:resnet18,: written names:resnet18"),
    (["--space=none.py:space"], "space=none.py:space: there is no file none.py"),
    (["--tune=method"], "tune=method: must be a setting whose value is a number above 0"),
    (["--storage=postgresql+psycopg://nobody@127.0.0.1:1/x"], "storage=postgresql+psycopg://nobody@127.0.0.1:1/x: "),
])
def test_a_mistake_is_one_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(search.TOOL, search.begin, options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.glob("runs/nas/*/trials"))


def test_a_recipe_may_name_its_papers_encoder():
    recipe = f"recipe={ROOT / 'experiments' / 'recipes' / 'cifar10' / 'simclr.yaml'}"
    options, file = cli.with_recipe(search.TOOL, [recipe, "space=resnetd"])
    search.check(cli.compose(search.TOOL, options, file))
    options, file = cli.with_recipe(search.TOOL, [recipe, "space=resnetd", "encoder=resnet18"])
    with pytest.raises(ValueError, match="encoder=resnet18: must be left out"):  # from the command line
        search.check(cli.compose(search.TOOL, options, file))


@pytest.mark.long
def test_a_space_that_fails_stops_the_study_with_the_reason(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(trial, channels, size):\n    raise KeyError('no such block')\n")
    job = begin(tmp_path, "--space=mine.py:mine", "--trials=9")
    _, err = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "the first 5 trials all failed, the last one so: KeyError: 'no such block'" in err


@pytest.mark.long
def test_where_nothing_was_trained_the_command_fails_with_the_reason(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from vision.encoders import Spec\n"
        "def mine(trial, channels, size):\n    trial.suggest_int('a', 0, 1)\n    return Spec('test_resnet', channels, size)\n"
    )
    job = begin(tmp_path, "--space=mine.py:mine", "--limit=macs:0.0001", "--tune=")
    out, err = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "ended: the space holds no more than" in out
    last = err.strip().splitlines()[-1]
    reason = "the space holds no more than 1 candidates, and all were tried"
    assert last.startswith(f"error: nothing was trained: {reason}; trial 0 ")
    assert last.endswith("> 0.0001")


@pytest.mark.long
def test_a_mistake_that_only_a_worker_sees_leaves_the_name_free(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(trial, channels, size):\n    return trial.suggest_categorical('n', ['tiny'])\n")
    options = "--strategy=proxy", "--proxy=macs", "--objectives=proxy", "--trials=1", "--rungs=1"
    job = begin(tmp_path, *options, "--space=mine.py:other")
    _, err = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "space=mine.py:other: mine.py has no function other" in err
    job = begin(tmp_path, *options, "--space=mine.py:mine", "--limit=macs:5")
    _, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert re.fullmatch("content [0-9a-f]{16}:mine", results(tmp_path)["settings"]["space"])
    job = begin(tmp_path, *options, "--space=mine.py:other")
    _, err = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "was begun with other settings" in err


def test_a_worker_that_hangs_does_not_keep_a_stopped_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = WorkerPool(cli.compose(search.TOOL, ["study=s", "device=cpu", "parallel=2", "interval=0.5"]))
    pool.processes = {number: subprocess.Popen(["sleep", "600"]) for number in range(2)}
    pool.processes[1].send_signal(signal.SIGSTOP)
    os.waitpid(pool.processes[1].pid, os.WUNTRACED)  # until it is
    pool.stop()
    assert [process.returncode for process in pool.processes.values()] == [-signal.SIGTERM, -signal.SIGKILL]
