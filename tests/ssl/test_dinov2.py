"""DINOv2 and its successors beside lightly's losses, and what they promise of tiles, of a frozen layer and of their teacher."""
import pytest
import torch
from lightly.loss import KoLeoLoss
from lightly.loss.swav_loss import sinkhorn
from processes import on
from small_methods import batch, made
from test_parity import RATE, assert_one, steps
from torch.nn import functional as F

from core import optim
from core.settings import OptimSettings
from ssl import losses
from ssl.masked_crops import koleo_loss, masked_rows
from ssl.sinkhorn import balanced, cross_entropy, expected_prototypes

VARIANTS = [("dinov2",), ("dinov2", "method.separate_heads=true"), ("simdinov2",)]


def rows(count: int, P: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, P, generator=generator, dtype=torch.float64), dim=1)


def test_balanced_assignments_are_lightlys_and_do_not_depend_on_tiles(monkeypatch):
    z, prototypes = rows(150), rows(20, seed=1)
    expected = sinkhorn(z @ prototypes.T, iterations=3, epsilon=0.07)
    for tile in (losses.TILE, 1):  # one tile, or three of 64 rows at most
        monkeypatch.setattr(losses, "TILE", tile)
        torch.testing.assert_close(balanced(z, prototypes, 0.07).of(slice(None)), expected, rtol=1e-9, atol=1e-12)


def test_the_cross_entropy_in_tiles_is_torchs_and_so_are_its_gradients(monkeypatch):
    monkeypatch.setattr(losses, "TILE", 1)
    student, ours = rows(150, seed=2).requires_grad_(), rows(20, seed=3).requires_grad_()
    targets = balanced(rows(150), rows(20, seed=1), 0.07)
    expected = F.cross_entropy(student @ ours.T / 0.1, targets.of(slice(None)), reduction="none")
    found = cross_entropy(student, ours, 0.1, expected_prototypes(targets, ours))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.rand(150, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), (student, ours)) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_rows_that_do_not_count_change_nothing():
    z, prototypes = rows(30), rows(20, seed=1)
    counted = torch.arange(30) % 3 > 0
    alone = balanced(z[counted], prototypes, 0.07).offsets
    torch.testing.assert_close(balanced(z, prototypes, 0.07, counted).offsets, alone, rtol=1e-10, atol=1e-12)
    none = balanced(z, prototypes, 0.07, torch.zeros(30, dtype=torch.bool))
    assert not none.offsets.any()


def test_koleo_is_lightlys():
    z = torch.randn(40, 8, dtype=torch.float64)  # theirs adds 1e-8 to each difference as well
    torch.testing.assert_close(koleo_loss(z, "dinov2"), KoLeoLoss()(z), rtol=1e-6, atol=1e-6)


def test_a_batch_without_a_masked_patch_has_a_patch_loss_of_zero():
    found = masked_rows(torch.zeros(4, 2, 3, dtype=torch.bool))
    assert found.chosen.sum() == 1
    assert not found.counted.any()
    assert found.mean(torch.ones(1)) == 0


@pytest.mark.parametrize("W", [2, pytest.param(4, marks=pytest.mark.long)])
def test_several_processes_with_uneven_masks_are_one(W):
    """As test_parity, for each choice of heads, in float64."""
    several = on(W, both, VARIANTS)
    for i, case in enumerate(VARIANTS):
        counts = made(*case).masking.masks(batch(case[0])).sum((1, 2)).view(W, -1).sum(1)
        assert len(counts.unique()) > 1, "processes have the same number of masked patches: choose other images"
        assert_one(case, steps(case, torch.float64, 2), [process[i] for process in several], 1e-10)


def both(cases: list) -> list[dict[str, torch.Tensor]]:
    return [steps(case, torch.float64, 2) for case in cases]


@pytest.mark.parametrize("separate", ["true", "false"])
def test_a_frozen_last_layer_does_not_move_and_then_does(separate):
    """Weight decay and Adam's moments would move it where only its gradient is zero."""
    method = made("dinov2", f"method.separate_heads={separate}", "method.freeze_last=0.5")
    optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.4), RATE)
    names = [name for name, _ in method.named_parameters() if name.endswith("prototypes") and name.startswith("projector")]
    assert len(names) == 1 + (separate == "true")
    start = {name: method.get_parameter(name).clone() for name in names}
    for step, progress in enumerate((0.0, 0.49, 0.5)):
        optim.schedule(optimizer, RATE, None, progress)
        method(batch("dinov2", step), progress).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = [not torch.equal(method.get_parameter(name), start[name]) for name in names]
        assert moved == [progress >= 0.5] * len(names)
        assert not torch.equal(method.projector.cls.mlp[0].weight, method.teacher[1].cls.mlp[0].weight)


def test_lower_layers_learn_more_slowly():
    method = made("dinov2")
    shares = method.traits.lr_scale
    blocks = sorted({name.split(".")[2] for name in shares if ".blocks." in name}, key=int)
    top, first = shares["encoder.norm.weight"], shares["encoder.patch_embed.proj.weight"]
    assert shares[f"encoder.blocks.{blocks[-1]}.norm1.weight"] <= top <= 1
    assert first == pytest.approx(0.2 * shares["mask_token"])
    assert shares["mask_token"] == pytest.approx(shares["encoder.cls_token"])
    assert not made("dinov2", "method.layer_decay=1", "method.patch_lr=1").traits.lr_scale


@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
def test_the_teacher_is_evaluated_and_sees_unmasked_crops(name):
    method, data = made(name).train(), batch(name)
    assert not any(module.training for module in method.teacher.modules())
    assert method.masking.masks(data).any()
    found = method.targets(data)
    torch.testing.assert_close(found.cls[:, 1], method.encoder.eval().forward_features(data.views[1])[:, 0])
