"""`python -m distill.train`: students in one job, resume to the same bytes, mistakes in a line."""
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import run, shortened, start
from torch import nn

from core import cli
from core.identity import identity
from distill.train import TOOL, jobs
from vision import artifact, datasets, encoders
from vision.augment import Augmentation

MODULE = "distill.train"
SMALL = ["--data=digits", "--batch_size=64", "--steps=12", "--log_every=1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("teacher"), datasets.load("digits")
    torch.manual_seed(5)
    encoder = encoders.create("test_resnet", 1, 8)
    recipe = Augmentation(8, data.mean, data.std)
    (folder / "encoder.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}))
    (folder / "classifier.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}, nn.Linear(96, 10), data.classes))
    (folder / "other.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}, nn.Linear(96, 2), ("cat", "dog")))
    (folder / "again.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}, nn.Linear(96, 10), data.classes))
    (folder / "none.safetensors").write_text("none of ours")
    return folder


@pytest.mark.long
def test_two_students_the_second_reads_what_the_teacher_said(files, tmp_path):
    words = [f"--teacher={files}/encoder.safetensors", "--student=test_resnet,test_byobnet", "--method=seed"]
    ended = run(*words, *SMALL, f"--out={tmp_path / 'o'}", f"--cache={tmp_path / 'c'}", logs=tmp_path, module=MODULE)
    assert ended.code == 0, ended.err
    counts = [json.loads((tmp_path / "o" / s / "results.json").read_text())["cache"] for s in ("test_resnet", "test_byobnet")]
    assert counts == [{"hits": 0, "misses": 12}, {"hits": 12, "misses": 0}]
    table = (tmp_path / "o" / "test_byobnet" / "report.md").read_text()
    assert "teacher: " in table
    assert "untrained: test_byobnet" in table
    assert artifact.load(tmp_path / "o" / "test_byobnet" / "encoder.safetensors")[0].spec.name == "test_byobnet"
    # without a cache the second student is the same to the bit
    words[1] = "--student=test_byobnet"
    assert run(*words, *SMALL, f"--out={tmp_path / 'n'}", "--cache=none", logs=tmp_path, module=MODULE).code == 0
    one, two = (artifact.load(tmp_path / p / "encoder.safetensors")[0].state_dict() for p in ("o/test_byobnet", "n"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.long
@pytest.mark.parametrize("method", shortened(["crd", "seed", "dkd"]))
def test_killed_it_ends_with_the_same_bytes(files, tmp_path, method):
    words = [f"--teacher={files}/classifier.safetensors", "--student=test_resnet", f"--method={method}", *SMALL]
    words += ["--save_minutes=0.0001", f"--cache={tmp_path / 'c'}"]
    assert run(*words, f"--out={tmp_path / 'whole'}", logs=tmp_path / "l", module=MODULE).code == 0
    job = start(*words, f"--out={tmp_path / 'cut'}", logs=tmp_path / "m", module=MODULE)
    job.until(tmp_path / "cut" / "metrics.jsonl", rows=5)
    job.send(9)
    job.wait()
    assert run(*words, f"--out={tmp_path / 'cut'}", logs=tmp_path / "l", module=MODULE).code == 0
    name = "encoder.safetensors" if method == "seed" else "classifier.safetensors"
    one, two = (artifact.read_header(tmp_path / p / name) for p in ("whole", "cut"))
    assert one == two
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_classifier_is_taken_over_without_labels(tmp_path):
    """simkd to its end: the classifier that it leaves tells apart what the teacher does."""
    encoder, classes = encoders.create("test_resnet", 3, 8), ("cat", "dog", "owl")
    recipe, teacher = Augmentation(8, [0.5] * 3, [0.25] * 3), tmp_path / "t.safetensors"
    teacher.write_bytes(artifact.dumps(encoder, recipe, {}, nn.Linear(encoder.dim, 3), classes))
    words = [f"--teacher={teacher}", "--student=test_resnet", "--method=simkd", "--data=synthetic", "+data.labels=none"]
    words += ["--image_size=8", "--batch_size=64", "--steps=2", f"--out={tmp_path / 'o'}", "--cache=none"]
    ended = run(*words, logs=tmp_path / "l", module=MODULE)
    assert ended.code == 0, ended.err
    model, card = artifact.load_classifier(tmp_path / "o" / "classifier.safetensors")
    assert card.classes == classes
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.long
@pytest.mark.parametrize("method", shortened(["kd", "seed"]))
def test_the_student_alone_beside_it(files, tmp_path, method):
    """The command that a run ends with trains the same encoder alone, and `--compare` puts it into the same run's table."""
    words = [f"--teacher={files}/classifier.safetensors", "--student=test_resnet", f"--method={method}", "--optim.warmup=0"]
    words += ["--data=digits", "--batch_size=64", "--steps=2", "--seed=3", f"--out={tmp_path / 'o'}", "--cache=none"]
    ended = run(*words, logs=tmp_path / "l", module=MODULE)
    assert ended.code == 0, ended.err
    command, again = ended.out.splitlines()[-2:]
    _, _, _, _, _, module, *said = shlex.split(command)
    assert module == ("linear_eval.finetune" if method == "kd" else "ssl.pretrain")
    if method == "kd":
        assert "--optim.name sgd --optim.lr 0.2 --optim.weight_decay 0.0005 --optim.warmup 0" in command
    alone = run(*said, logs=tmp_path / "a", module=module)
    assert alone.code == 0, alone.err
    same = identity(yaml.safe_load((tmp_path / "o-alone" / "config.yaml").read_text()))
    assert [same[name] for name in ("encoder", "steps", "seed", "batch_size")] == ["test_resnet", 2, 3, 64]
    beside = shlex.split(again)[shlex.split(again).index("--compare") + 1].rstrip(":")
    ended = run(*words, f"--compare={beside}", logs=tmp_path / "b", module=MODULE)
    assert ended.code == 0, ended.err
    assert "next:" not in ended.out
    rows = json.loads((tmp_path / "o" / "results.json").read_text())["rows"]
    teacher, student, next_to_it, untrained = rows.values()
    assert [name.split(":")[0] for name in rows] == ["teacher", "student", "beside", "untrained"]
    for row in rows.values():
        assert {"knn", "logistic", "parameters", "macs", "milliseconds"} <= set(row)
        assert row["parameters"] == student["parameters"]
        assert row["milliseconds"] > 0
    assert "classifier" in teacher
    assert "classifier" not in untrained
    assert ("classifier" in student) == ("classifier" in next_to_it) == (method == "kd")


def test_students_of_a_name_have_the_size_of_the_teachers_file(files, tmp_path):
    def sizes(*more: str) -> list[int]:
        words, _ = cli.parse([f"--teacher={files}/encoder.safetensors", "--student=test_resnet", "--data=folder",
                              f"--data.root={tmp_path}", *more], TOOL.settings)
        return [job.image_size for job in jobs(cli.compose(TOOL, words))]

    assert sizes() == [8]  # and not the folder's 224
    assert sizes("--image_size=32") == [32]
    assert sizes("--teacher=resnet18") == [224]


def test_folders_of_several_students(tmp_path):
    def outs(student: str) -> list[tuple[str, str]]:
        words, _ = cli.parse(["--teacher=t", f"--student={student}", f"--out={tmp_path}"], TOOL.settings)
        words = cli.compose(TOOL, words)
        return [(job.encoder, str(Path(job.out).relative_to(tmp_path))) for job in jobs(words)]

    a, b = "runs/a/encoder.safetensors", "runs/b/encoder.safetensors"
    assert outs("resnet18, test_resnet ,") == [("resnet18", "resnet18"), ("test_resnet", "test_resnet")]
    assert outs(f"{a},{b}") == [(a, "a-encoder"), (b, "b-encoder")]
    assert outs(f"{a},more/{a}") == [(a, "1-a-encoder"), (f"more/{a}", "2-a-encoder")]
    assert outs(a) == [(a, ".")]


def test_mistakes_are_one_line(files, tmp_path):
    out, teacher = f"--out={tmp_path / 'x'}", f"--teacher={files}/encoder.safetensors"
    classifier = f"--teacher={files}/classifier.safetensors"
    for words, said in [
        ([], "teacher=…: say which encoder teaches"),
        (["--teacher=,"], "teacher=…: say which encoder teaches"),
        (["--teacher=nowhere.safetensors"], "teacher=nowhere.safetensors: no such file"),
        ([teacher, "--student=test_resnet,nowhere.safetensors"], "student=nowhere.safetensors: no such file"),
        ([teacher, f"--student=test_resnet,{files}/none.safetensors"], f"student={files}/none.safetensors is not an encoder"),
        ([teacher, "--student=test_resnet, resnet1888"], "student=resnet1888: no such timm model"),
        ([teacher, "--student=,"], "student=,: say what to train"),
        ([teacher, "--compare=nowhere.safetensors"], "compare=nowhere.safetensors: no such file"),
        ([teacher, f"--compare={files}/encoder.safetensors, {files}/none.safetensors"], "compare=/"),
        ([teacher, "--method=kd"], "has no classifier, which this method needs"),
        ([f"--teacher={files}/other.safetensors", "--method=kd"], "they must be the same"),
        ([teacher, "--method=seeed"], "did you mean seed"),
        ([teacher, "--student=test_resnet,test_resnet"], "each one once"),
        ([teacher, "--cache_gb=-1"], "cache_gb=-1"),
        ([teacher, "--cache_gb=inf"], "cache_gb=inf: must be a finite number"),
        ([teacher, "--cache_gb=nan"], "cache_gb=nan: must be a finite number"),
        ([teacher, f"--cache={files}/none.safetensors"], "none.safetensors cannot be written: "),
        ([teacher, "--augment.local.views=4"], "augment.local.views=4: must be 0"),
        ([teacher, "--method.hidden=0"], "method.hidden=0: must be more than 0"),
        ([teacher, "--teacher_sizes=[8,16]"], "teacher_sizes=[8, 16]: is for tokens and queue_tokens"),
        ([teacher, "--method=tokens", "--teacher_sizes=[8,8]"], "teacher_sizes=[8, 8]: must be different numbers of pixels"),
        ([teacher, "--method=tokens", "--compile"], "compile=true: has no effect with method=tokens"),
        ([classifier, "--method=dkd", "--data=synthetic", "+data.labels=none"], "needs labels"),
    ]:
        ended = run(*words, "--image_size=8", out, logs=tmp_path / "l", module=MODULE)
        assert ended.code == 2, (words, ended.err)
        assert said in ended.err.splitlines()[-1], (words, ended.err)
        assert not (tmp_path / "x").exists()


def test_another_teacher_under_the_same_name_is_noticed(files, tmp_path):
    shutil.copy(files / "classifier.safetensors", tmp_path / "t.safetensors")
    words = [f"--teacher={tmp_path}/t.safetensors", "--student=test_resnet", *SMALL, f"--out={tmp_path / 'o'}", "--cache=none"]
    job = start(*words, "--save_minutes=0.0001", logs=tmp_path / "m", module=MODULE)
    job.until(tmp_path / "o" / "metrics.jsonl", rows=4)
    job.send(9)
    job.wait()
    shutil.copy(files / "again.safetensors", tmp_path / "t.safetensors")
    ended = run(*words, "--save_minutes=0.0001", logs=tmp_path / "l", module=MODULE)
    assert ended.code == 2
    assert "holds a run of another configuration (teacher: content " in ended.err.splitlines()[-1]
