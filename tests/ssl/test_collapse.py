"""Collapses of methods on prototypes and patches: figures against other implementations, and runs that collapse on purpose."""
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import run
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity

from ssl import collapse
from ssl.health import Health
from vision import encoders

BEFORE = {"feature_std": 0.5, "rankme": 48.0, "alignment_ratio": 0.7, "patch_cosine": 0.6, "patch_spread": 0.7}
GOOD = {"feature_std": 0.6, "rankme": 40.0, "alignment_ratio": 0.3, "patch_cosine": 0.7, "patch_spread": 0.6,
        "teacher_entropy": 0.3, "teacher_entropy_of_mean": 0.9, "prototypes_in_use": 0.8}
SHAPE = ["--data=digits", "+data.labels=none", "--image_size=16", "--encoder=test_resnet", "--batch_size=64", "--trackers=none"]
DINO = ["--method=dino", "--method.hidden=32", "--method.dim=16", "--method.prototypes=20", "--method.norm=true",
        "--method.freeze_last=0", "--optim.name=adamw", "--optim.lr=0.01", "--optim.warmup=0", "--stop_on_collapse=false"]


def test_figures_of_targets_are_scipys_entropies():
    targets = torch.randn(6, 2, 10, generator=torch.Generator().manual_seed(0)).mul(3).softmax(2)
    rows, found = targets.flatten(0, 1).double().numpy(), collapse.assignment_scalars(targets)
    assert float(found["teacher_entropy"]) == pytest.approx(entropy(rows, axis=1).mean() / math.log(10), rel=1e-5)
    assert float(found["teacher_entropy_of_mean"]) == pytest.approx(entropy(rows.mean(0)) / math.log(10), rel=1e-5)
    assert float(found["prototypes_in_use"]) == pytest.approx(len(set(rows.argmax(1))) / 10)
    one = collapse.assignment_scalars(torch.eye(10)[[3, 3, 3]])
    assert {name: float(value) for name, value in one.items()} == pytest.approx(
        {"teacher_entropy": 0, "teacher_entropy_of_mean": 0, "prototypes_in_use": 1 / 3}
    )


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_figures_of_patches_are_sklearns(name):
    torch.manual_seed(0)
    encoder, images = encoders.create(name, 3, 64, "full").eval(), torch.randn(5, 3, 64, 64)
    assert collapse.has_patches(encoder)
    with torch.no_grad():
        found = collapse.patch_figures(collapse.patches_of(encoder, images))
        x = encoder.forward_features(images)
    patches = x[:, 1:] if x.ndim == 3 else x.flatten(2).mT
    N = patches.shape[1]
    cosines = [(cosine_similarity(p.double()).sum() - N) / (N * (N - 1)) for p in patches]
    assert found["patch_cosine"] == pytest.approx(sum(cosines) / 5, rel=1e-4)
    unit = torch.nn.functional.normalize(patches.double(), dim=2).flatten(0, 1)
    assert found["patch_spread"] == pytest.approx(float(unit.var(0, correction=0).sum().sqrt()), rel=1e-3)


def test_the_spread_of_predictions_is_what_a_loop_over_places_finds():
    rng, N, D = np.random.default_rng(0), 5, 3
    places = torch.from_numpy(np.stack([rng.permutation(N)[:4] for _ in range(12)]))
    counted = torch.from_numpy(rng.random((12, 4)) < 0.7)
    of_place = torch.from_numpy(rng.standard_normal((N, D)))
    targets = of_place[places] + torch.from_numpy(rng.standard_normal((12, 4, D)))
    predictions = of_place[places] + 0.3 * torch.from_numpy(rng.standard_normal((12, 4, D)))

    def between(x):
        at = [x[(places == place) & counted].numpy() for place in range(N)]
        return sum(((rows - rows.mean(0)) ** 2).sum() for rows in at if len(rows))

    found = collapse.prediction_scalars(predictions, targets, places, N, counted)["prediction_spread"]
    assert float(found) == pytest.approx(between(predictions) / between(targets), rel=1e-5)
    alike = collapse.prediction_scalars(of_place[places], targets, places, N + 3)["prediction_spread"]
    assert float(alike) == pytest.approx(0, abs=1e-12)
    none = collapse.prediction_scalars(predictions, targets, places, N, torch.zeros_like(counted))["prediction_spread"]
    assert float(none) == 1.0


def test_an_encoder_of_one_place_has_no_patches():
    assert not collapse.has_patches(encoders.create("test_resnet", 1, 8, "full"))


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, None),
        ({"teacher_entropy": 0.995, "teacher_entropy_of_mean": 1.0}, "the teacher is uniform"),
        ({"teacher_entropy": 0.01, "teacher_entropy_of_mean": 0.02}, "one prototype takes all images"),
        ({"teacher_entropy": 0.01, "teacher_entropy_of_mean": 0.5}, None),
        ({"patch_teacher_entropy": 0.995}, "the teacher of patches is uniform"),
        ({"patch_teacher_entropy_of_mean": 0.02, "patch_prototypes_in_use": 0.1}, "one prototype takes all patches"),
        ({"patch_cosine": 0.999}, r"patches of an image are all alike \(their mean cosine is 0.999, untrained 0.600\)"),
        ({"patch_cosine": 0.97}, None),
        ({"patch_spread": 0.04}, r"patches of all images are one \(their spread is 0.040, untrained 0.700\)"),
        ({"patch_spread": 0.06}, None),
    ],
)
def test_the_verdict_names_the_kind(figures, words):
    health = SimpleNamespace(
        watched=range(129), dim=128, predicts_pixels=False, began="untrained", history=[(10, GOOD | figures)],
        baselines=SimpleNamespace(untrained=BEFORE), feature_kinds=lambda figures: [], describe=lambda figures: "",
    )
    verdict = Health.verdict(health)
    assert verdict.startswith(f"collapsed: {words}".split(r"\(")[0] if words else "healthy: "), verdict


def test_patches_of_pixel_predictors_are_alike_only_where_predictions_are():
    figures = {"patch_cosine": 0.999, "patch_spread": 0.01}
    assert len(collapse.kinds(figures, BEFORE, "untrained")) == 2
    assert len(collapse.kinds(figures | {"prediction_spread": 0.001}, BEFORE, "untrained", predicts_pixels=True)) == 2
    assert collapse.kinds(figures | {"prediction_spread": 0.2}, BEFORE, "untrained", predicts_pixels=True) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method.teacher_temperature=[20,20]"], "the teacher is uniform"),
        (["--method.teacher_temperature=[0.01,0.01]", "--method.centre_momentum=1", "--method.momentum=[0.5,0.5]"],
         "one prototype takes all images"),
    ],
)
@pytest.mark.slow
def test_a_run_that_collapses_says_how(tmp_path, words, sentence):
    ended = run(*SHAPE, *DINO, *words, "--steps=40", "--evals=2", f"--out={tmp_path / 'run'}", logs=tmp_path)
    assert ended.code == 0, ended.err
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"Health: collapsed: {sentence}" in report
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    teacher = {"teacher_entropy", "teacher_entropy_of_mean", "prototypes_in_use"}  # DINO has no targets of patches
    assert all(teacher <= row.keys() for row in rows)
    assert all({*collapse.PATCHES} <= row.keys() for row in rows if "rankme" in row)
    assert (tmp_path / "run" / "curves.png").stat().st_size
