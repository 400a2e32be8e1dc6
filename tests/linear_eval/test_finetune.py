"""`python -m linear_eval.finetune`: a classifier is trained, a stopped run resumes, and mistakes are one line."""
import json
import math

import numpy as np
import pytest
import torch
from commands import run, start
from torch.optim.lr_scheduler import ReduceLROnPlateau

from core import cli, counter_rng
from core.schedule import plateaus, stepped
from linear_eval import finetune
from linear_eval.fit import Watch
from vision import artifact, datasets, encoders

# A few seconds: 1,440 images of 8 px, timm's own test model.
SMALL = ["--data=synthetic", "--image_size=8", "--encoder=test_resnet", "--batch_size=32", "--steps=12", "--evals=3"]
SMALL += ["--log_every=1"]
TOOL = "linear_eval.finetune"


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    ended = run(*SMALL, f"--out={folder / 'run'}", logs=folder, module=TOOL)
    assert ended.code == 0, ended.err
    return folder / "run", ended


def test_what_a_run_leaves(finished):
    folder, ended = finished
    names = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "metrics.jsonl", "last.pt", "encoder.safetensors", "classifier.safetensors", "results.json"}
    assert names >= expected | {"report.md", "report.html"}
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    assert (row["method"], row["selected_on"], row["train_images"]) == ("finetune", "nothing: fixed", 1440)
    assert str(folder / "classifier.safetensors") in ended.out


def test_the_classifier_scores_what_the_report_says(finished):
    folder, _ = finished
    model, card = artifact.load_classifier(folder / "classifier.safetensors")
    test = datasets.load("synthetic").test
    images = test.resized(torch.arange(len(test)), 8).float() / 255
    with torch.no_grad():
        logits = model((images - torch.tensor(card.mean)[:, None, None]) / torch.tensor(card.std)[:, None, None])
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    assert row["accuracy"] == pytest.approx(float((logits.argmax(1) == test.labels).float().mean() * 100), abs=0.3)  # one image
    assert card.classes == datasets.load("synthetic").classes


@pytest.mark.long
def test_a_run_that_was_killed_ends_with_the_same_bytes(finished, tmp_path):
    whole, _ = finished
    half = [*SMALL, f"--out={tmp_path / 'run'}"]
    started = run(*half, logs=tmp_path / "a", module=TOOL, LARGEST_FILE="0")  # cannot save: ends early
    assert started.code != 0
    going = start(*half, "--save_minutes=0.0001", logs=tmp_path / "b", module=TOOL)
    going.until(tmp_path / "run" / "metrics.jsonl", rows=5)
    going.send(9)
    going.wait()
    ended = run(*half, logs=tmp_path / "c", module=TOOL)
    assert ended.code == 0, ended.err
    for name in ("encoder.safetensors", "classifier.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.long
def test_two_processes_reach_what_one_does(tmp_path):
    """float32, two BatchNorms summed in another order: after 4 steps predictions are the same but near ties."""
    words = [w for w in SMALL if "steps" not in w]
    for devices in (1, 2):
        out = tmp_path / str(devices)
        ended = run(*words, "--steps=4", f"--devices={devices}", f"--out={out}", logs=out.with_suffix(".logs"), module=TOOL)
        assert ended.code == 0, ended.err
    one, two = ([r["loss"] for r in rows(tmp_path / str(n))] for n in (1, 2))
    np.testing.assert_allclose(one, two, rtol=2e-3)


@pytest.mark.long
def test_early_stopping_ends_with_the_best_weights(tmp_path):
    """A learning rate of nothing never gets better: two checks without gain, and the third of ten ends it."""
    words = [w for w in SMALL if not w.startswith(("--steps", "--evals"))]
    words += ["--steps=40", "--evals=10", "--early_stop=2", "--optim.lr=1e-12", f"--out={tmp_path / 'run'}"]
    for attempt in "ab":  # and the finished run stays finished
        ended = run(*words, logs=tmp_path / attempt, module=TOOL)
        assert ended.code == 0, ended.err
        assert rows(tmp_path / "run")[-1]["step"] == 12
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert row["chosen"]["weights"] == "best on validation"
    assert row["selected_on"].endswith("validation images")


def test_the_best_weights_are_those_of_the_best_check(monkeypatch):
    method = torch.nn.Linear(1, 1)
    method.multilabel = False
    watch = Watch(method, [1], None, torch.device("cpu"), early_stop=2)
    seen = iter([50.0, 70.0, 60.0, 70.0])

    class Found:
        x = np.eye(1)
        labels = np.zeros(1)

    monkeypatch.setattr("linear_eval.fit.predict", lambda *a: Found)
    monkeypatch.setattr("linear_eval.fit.broadcast_object", lambda value: next(seen))
    for step in range(4):
        with torch.no_grad():
            method.weight.fill_(step)
        assert not watch.should_stop()
        watch.check(step)
    assert watch.best["weight"].item() == 1  # the first of equals
    assert watch.should_stop()


def test_plateaus_are_torchs():
    scores = [1, 2, 2, 1, 2, 2.5, 2, 2, 2, 2, 2, 3, 0]
    for patience in (0, 1, 2):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], 1.0)
        peer = ReduceLROnPlateau(optimizer, "max", 0.1, patience, threshold=0.0)
        for i, score in enumerate(scores):
            peer.step(score)
            expected = round(-np.log10(optimizer.param_groups[0]["lr"]))
            assert min(plateaus(scores[: i + 1], patience), 8) == min(expected, 8)  # torch stops at differences of 1e-8


def test_steps_fall_where_they_are_said_to():
    rates = [stepped(p / 10, 1.0, 0.2, (0.5, 0.8), 0.1) for p in range(10)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.long
def test_the_head_alone_is_torchs_linear_layer_on_the_frozen_features(tmp_path):
    """Without augmentation the same batches in the same order, by torch's own layer, loss and optimizer."""
    words = ["--data=synthetic", "--image_size=32", "--encoder=test_resnet", "--method=head", "--steps=12", "--batch_size=64"]
    words += ["--augment.crop=[1.0,1.0]", "--augment.ratio=[1.0,1.0]", "--augment.flip=0", "--evals=1", "--gradcam=0"]
    words += ["--precision=fp32"]
    ended = run(*words, f"--out={tmp_path / 'run'}", logs=tmp_path, module=TOOL)
    assert ended.code == 0, ended.err
    model, card = artifact.load_classifier(tmp_path / "run" / "classifier.safetensors")
    train = datasets.load("synthetic").train
    mean, std = (torch.tensor(x)[:, None, None] for x in (card.mean, card.std))
    with torch.no_grad():
        features = model.encoder((train.images.float() / 255 - mean) / std)

    torch.manual_seed(0)
    encoders.create("test_resnet", 3, 32)  # the first numbers are the encoder's
    peer = torch.nn.Linear(features.shape[1], 10)
    torch.nn.init.normal_(peer.weight, std=0.01)
    torch.nn.init.zeros_(peer.bias)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9)
    order = counter_rng.permutation(0, 0, len(train))
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.1 * 64 / 256 * (1 + math.cos(math.pi * step / 12)) / 2
        rows = order[64 * step : 64 * (step + 1)]
        torch.nn.functional.cross_entropy(peer(features[rows]), train.labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    # crops are resampled, so pixels differ by 1e-7
    torch.testing.assert_close(model.head.weight, peer.weight, rtol=1e-3, atol=1e-6)
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert row["method"] == "augmented"


WORDS = {
    ("--labels=0",): ("labels=0", "more than 0"),
    ("--labels=1.5",): ("labels=1.5", "at most 1"),
    ("--schedule.name=linear",): ("schedule.name=linear", "plateau"),
    ("--schedule.at=[0.8,0.6]",): ("schedule.at", "rising"),
    ("--schedule.factor=2",): ("schedule.factor=2",),
    ("--early_stop=-1",): ("early_stop=-1", "0 or more"),
    ("--method=fulll",): ("method=fulll", "did you mean full?"),
    ("--method.trains=tail",): ("method.trains=tail", "all, head, staged"),
    ("--method.mixup=1", "--batch_size=31"): ("batch_size=31", "even"),
    ("--method=staged", "--chunk=8"): ("chunk=8", "accumulate"),
    ("--attention=se",): ("attention=se", "cbam"),
    ("--attention=cbam", "--encoder=test_vit", "--image_size=32"): ("attention=cbam", "test_vit"),
    ("--epoch=3",): ("no setting 'epoch'", "epochs"),
    ("+data.labels=none",): ("data=synthetic has no labels", "sub-folders"),
    ("--batch_size=2000",): ("batch_size=2000", "1440 images"),
    ("--encoder=nothing.safetensors",): ("nothing.safetensors", "no such file"),
}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_wrong_settings(tmp_path, words):
    ended = run(*SMALL, *words, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs", module=TOOL)
    assert ended.code == 2, ended.err
    assert all(part in ended.line for part in WORDS[words]), ended.line
    assert not (tmp_path / "run").exists()


def test_every_method_can_be_built_and_says_what_the_classifier_takes():
    for name in finetune.TOOL.choices("method"):
        words = cli.compose(finetune.TOOL, [f"method={name}"])
        finetune.check(words)
    assert {"full", "head", "staged", "layerwise"} <= set(finetune.TOOL.choices("method"))
