"""Collapses of methods on prototypes and patches: figures against other implementations, and runs that collapse on purpose."""
import json
import math
from types import SimpleNamespace

import pytest
import torch
from commands import run
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity
from test_adapt import settings_of

from ssl import collapse
from ssl.health import Health
from vision import encoders
from vision.augment import Augmentation
from vision.data import build_data
from vision.pixels import normalize_images

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


def test_an_encoder_of_one_place_has_no_patches():
    assert not collapse.has_patches(encoders.create("test_resnet", 1, 8, "full"))


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, None),
        ({"teacher_entropy": 0.995, "teacher_entropy_of_mean": 1.0}, "the teacher is uniform"),
        ({"teacher_entropy": 0.01, "teacher_entropy_of_mean": 0.02}, "one prototype takes all images"),
        ({"teacher_entropy": 0.01, "teacher_entropy_of_mean": 0.5}, None),
        ({"patch_cosine": 0.999}, r"patches of an image are all alike \(their mean cosine is 0.999, untrained 0.600\)"),
        ({"patch_cosine": 0.97}, None),
        ({"patch_spread": 0.04}, r"patches of all images are one \(their spread is 0.040, untrained 0.700\)"),
        ({"patch_spread": 0.06}, None),
    ],
)
def test_the_verdict_names_the_kind(figures, words):
    health = SimpleNamespace(
        watched=range(129), dim=128, began="untrained", history=[(10, GOOD | figures)],
        baselines=SimpleNamespace(untrained=BEFORE), collapsed=lambda figures: False, describe=lambda figures: "",
    )
    verdict = Health.verdict(health)
    assert verdict.startswith(f"collapsed: {words}".split(r"\(")[0] if words else "healthy: "), verdict


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method.teacher_temperature=[20,20]"], "the teacher is uniform"),
        (["--method.teacher_temperature=[0.01,0.01]", "--method.centre_momentum=1", "--method.momentum=[0.5,0.5]"],
         "one prototype takes all images"),
    ],
)
def test_a_run_that_collapses_says_how(tmp_path, words, sentence):
    ended = run(*SHAPE, *DINO, *words, "--steps=40", "--evals=2", f"--out={tmp_path / 'run'}", logs=tmp_path)
    assert ended.code == 0, ended.err
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"Health: collapsed: {sentence}" in report
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(set(collapse.TEACHER) <= row.keys() for row in rows)
    assert all(set(collapse.FIGURES) <= row.keys() for row in rows if "rankme" in row)
    assert (tmp_path / "run" / "curves.png").stat().st_size


def test_an_encoder_whose_patches_are_made_alike_is_named():
    settings = settings_of("--data=digits", "--image_size=64", "--encoder=test_vit")
    dataset = build_data(settings)
    torch.manual_seed(0)
    encoder = encoders.create("test_vit", 1, 64, "full")
    recipe = Augmentation(64, (0.5,), (0.5,))
    health = Health(dataset, recipe, torch.device("cpu"), 0, encoder)
    health.watched.indices, health.watched.labels = health.watched.indices[:40], health.watched.labels[:40]
    health.bank = None
    health.start(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3)
    images = normalize_images(next(iter(health.watched)), recipe.mean, recipe.std)
    for _ in range(25):
        patches = torch.nn.functional.normalize(encoder.forward_features(images)[:, 1:], dim=2)
        loss = 1 - patches.mean(1).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    health.check(25, encoder, stop=False)
    assert "patches of an image are all alike" in health.verdict()
