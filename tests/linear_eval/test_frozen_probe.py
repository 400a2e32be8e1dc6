"""Fine-tuning that begins as the probe of frozen features: the layer is scikit-learn's, and the run says whether it paid."""
import json

import numpy as np
import pytest
import torch
from commands import run
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from core import cli, training
from linear_eval.classifier import Classifier
from linear_eval.features import collect, of_encoder
from linear_eval.finetune import TOOL, against_frozen
from linear_eval.fit import begins_as_probe
from linear_eval.frozen_probe import start_from_probe
from vision import datasets, encoders
from vision.augment import Augmentation

CPU = torch.device("cpu")


def settings(*overrides: str):
    return cli.compose(TOOL, ["data=synthetic", *overrides])


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", seed=0)


def made(classes: int) -> Classifier:
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", 1, 16)
    for module in encoder.modules():  # statistics of its own, as a trained one has
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return Classifier(encoder, torch.ones(classes), 0)


def test_the_layer_is_scikit_learns_of_the_c_that_validation_chooses(digits):
    method, recipe = made(10), Augmentation(16, digits.mean, digits.std, views=1)
    train = digits.train.select(torch.arange(300))
    probe = start_from_probe(method, train, digits, recipe, CPU)
    source = of_encoder("encoder", method.encoder, recipe.mean, recipe.std, CPU, maps=False)
    x, validation, test = (collect(source, s, CPU) for s in (train, digits.validation, digits.test))
    scaler = StandardScaler().fit(x.x.astype(np.float64))
    accuracy, models = {}, {}
    for C in (0.01, 0.1, 1.0, 10.0):
        models[C] = LogisticRegression(C=C, max_iter=2000).fit(scaler.transform(x.x.astype(np.float64)), x.labels)
        accuracy[C] = models[C].score(scaler.transform(validation.x.astype(np.float64)), validation.labels) * 100
    assert probe.validation == pytest.approx(max(accuracy.values()), abs=0.5)  # a validation image or so at the boundary
    expected = models[probe.C].predict_proba(scaler.transform(test.x.astype(np.float64)))
    with torch.no_grad():
        layer = method.head(torch.from_numpy(test.x.astype(np.float32))).softmax(1).numpy()
    np.testing.assert_allclose(layer, probe.scores, atol=1e-4)  # float32
    np.testing.assert_allclose(layer, expected, atol=0.02)  # both stop where slopes are small, not at 0


def test_a_class_without_a_training_image_begins_improbable(digits):
    method, recipe = made(10), Augmentation(16, digits.mean, digits.std, views=1)
    train = digits.train.select((digits.train.labels < 8).nonzero()[:200, 0])
    probe = start_from_probe(method, train, digits, recipe, CPU)
    assert probe.scores[:, 8:].eq(0).all()
    assert method.head.weight[8:].eq(0).all()
    assert (method.head.bias[8:] < method.head.bias[:8].min() - 5).all()


@pytest.mark.parametrize(("overrides", "expected"), [
    (["encoder=a.safetensors"], True), (["encoder=resnet18", "pretrained=true"], True), (["encoder=resnet18"], False),
    (["encoder=a.safetensors", "scratch=true"], False), (["encoder=a.safetensors", "method=head"], False),
    (["encoder=a.safetensors", "head_start=zero"], False),
])
def test_where_it_begins_as_the_probe(overrides, expected):
    assert begins_as_probe(settings(*overrides)) is expected


@pytest.mark.parametrize(("overrides", "steps"), [
    (["epochs=2"], 400), (["epochs=200"], 800), (["steps=7"], 7), (["epochs=2", "least_steps=0"], 8),
])
def test_a_few_images_get_a_least_number_of_steps(overrides, steps):
    config = training.train_config(settings(*overrides), steps_an_epoch=4, processes=1, precision=None)
    assert config.steps == steps


def test_adamws_rate_does_not_shrink_with_the_batch():
    assert training.learning_rate(settings("batch_size=32")) == training.learning_rate(settings()) == 1e-3


@pytest.mark.slow
def test_a_run_has_both_rows_and_resumes_with_them(tmp_path):
    small = ["--data=digits", "--image_size=8", "--encoder=test_resnet", "--batch_size=64", "--steps=30", "--evals=1"]
    assert run(*small, f"--out={tmp_path / 'first'}", logs=tmp_path / "1", module=TOOL.module).code == 0
    encoder = f"--encoder={tmp_path / 'first' / 'encoder.safetensors'}"
    words = [encoder, *small[:2], *small[3:], f"--out={tmp_path / 'second'}"]
    ended = run(*words, logs=tmp_path / "2", module=TOOL.module)
    assert ended.code == 0, ended.err
    assert "frozen features: " in ended.err
    results = json.loads((tmp_path / "second" / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["finetune", "logistic"]
    assert results["notes"][0].split(":")[0] in ended.out
    again = run(*words, logs=tmp_path / "3", module=TOOL.module)  # a finished run makes its report again
    assert again.code == 0, again.err
    rows = json.loads((tmp_path / "second" / "results.json").read_text())["rows"]
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in results["rows"]]


def test_the_sentence_says_who_won():
    class Row:
        def __init__(self, score):
            self.score = score

    assert against_frozen([Row(50.0)]) == []
    assert against_frozen([Row(50.0), Row(44.0)])[0].startswith("Fine-tuning beats")
    assert against_frozen([Row(29.1), Row(44.0)])[0].startswith("Fine-tuning lost on test images: 29.1 % against 44.0 %")
