"""Runs of real methods that are set wrongly: the verdict names how they collapse; set rightly, they have none of it."""
import pytest
from commands import shortened

from core import cli
from ssl import watch
from ssl.pretrain import TOOL, pretrain

SHAPE = {
    "data": "digits", "+data.labels": "none", "encoder": "test_vit", "image_size": 96, "batch_size": 32, "steps": 40,
    "evals": 1, "trackers": "none", "report": "false", "stop_on_collapse": "false", "workers": 0, "precision": "fp32",
    "optim.scaling": "none", "optim.lr": 1e-3,
}  # fmt: skip
DECODER = {"method.decoder_width": 32, "method.decoder_depth": 1, "method.decoder_heads": 2}
HEAD = {"method.hidden": 32, "method.dim": 16}
DINO = {**HEAD, "method.prototypes": 20, "method.freeze_last": 0, "method.momentum": "[0.98,1]",
        "method.teacher_temperature": "[0.04,0.04]"}
RIGHT = {
    "mae": DECODER, "simmim": {},
    "ijepa": DECODER,
    "ibot": {**DINO, "optim.lr": 2e-4}, "dinov2": DINO,
    "simdinov2": {**HEAD, "method.momentum": "[0.98,1]"},
    "visreg": {**HEAD, "method.slices": 24},
}  # fmt: skip
POINT, ALIKE, ONE = "features of all images are one", "patches of an image are all alike", "patches of all images are one"
UNIFORM, OF_PATCHES = "the teacher is uniform", "the teacher of patches is uniform"
TEACHER, CENTER, LR = "method.teacher_temperature", "method.center_momentum", "optim.lr"
FAST = {"method.momentum": "[0.5,0.5]"}
WRONG = [
    ("mae", {LR: 0.3}, [ALIKE]),
    ("dinov2", {TEACHER: "[20,20]"}, [UNIFORM, OF_PATCHES]),  # and nothing else is wrong
    ("ijepa", {"method.momentum": "[0,0]", LR: 2e-3}, [POINT]),
    ("simmim", {LR: 0.3}, [ONE]),
    ("ibot", {**FAST, TEACHER: "[20,20]", LR: 1e-3}, [UNIFORM, OF_PATCHES]),
    ("ibot", {**FAST, TEACHER: "[0.01,0.01]", CENTER: 1, LR: 1e-2},
     ["one prototype takes all images", "one prototype takes all patches"]),
    ("simdinov2", {"method.rate_weight": 0}, [POINT]),
]  # fmt: skip


def verdict(monkeypatch, folder, method: str, **changes) -> str:
    words = {**SHAPE, "method": method, "out": folder, **RIGHT[method], **changes}
    kept, health_of = [], watch.health_of
    monkeypatch.setattr(watch, "health_of", lambda *a, **k: kept.append(health_of(*a, **k)) or kept[-1])
    pretrain(cli.compose(TOOL, cli.parse([f"{name}={value}" for name, value in words.items()], TOOL.settings)[0]))
    return kept[0].verdict()


@pytest.mark.parametrize(("method", "changes", "kinds"), shortened(WRONG))
@pytest.mark.slow
def test_a_run_that_is_set_wrongly_is_named(monkeypatch, tmp_path, method, changes, kinds):
    found = verdict(monkeypatch, tmp_path / "run", method, **changes)
    assert found.startswith("collapsed: ")
    assert all(kind in found for kind in kinds)


@pytest.mark.long
@pytest.mark.parametrize("method", [name for name in RIGHT if name != "ijepa"])  # whose features draw together in so few steps
def test_the_same_run_set_rightly_is_not(monkeypatch, tmp_path, method):
    found = verdict(monkeypatch, tmp_path / "run", method)
    assert not found.startswith("collapsed")
    assert method in ("mae", "simmim") or not found.startswith("blind"), "40 steps are too few for those two"


@pytest.mark.long
def test_a_run_that_sees_next_to_nothing_is_blind(monkeypatch, tmp_path):
    found = verdict(monkeypatch, tmp_path / "run", "mae", **{"method.mask_ratio": 0.97, LR: 2e-3})
    assert found.startswith("blind: masked patches")
