"""DINOv2 and its successors beside lightly's losses, and what they promise of tiles and of their teacher."""
from dataclasses import replace

import pytest
import timm
import torch
from lightly.loss import KoLeoLoss
from lightly.loss.swav_loss import sinkhorn
from processes import on
from small_methods import batch, made
from test_gradcache import chunked, off, whole
from test_parity import assert_one, steps
from torch.nn import functional as F

from ssl import losses
from ssl.masked_crops import koleo_loss, masked_rows
from ssl.sinkhorn import balanced, cross_entropy, expected_prototypes
from vision.rope import stretched

VARIANTS = [("dinov2",), ("dinov2", "method.separate_heads=true"), ("simdinov2",), ("dinov3",)]


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


def test_a_snapshot_is_taken_when_it_is_due_and_the_loss_then_has_a_gram_term():
    method, progress = made("dinov3", dtype=torch.float64), 0.0
    assert not method.gram.active
    output = method(batch("dinov3", dtype=torch.float64), progress)
    assert "gram" not in output.scalars
    method.after_step(output.staged, progress)
    first = [p.clone() for p in method.gram.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, method.teacher[0].parameters(), strict=True))
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
    for progress, fresh in ((0.4, False), (0.5, True), (0.6, False)):
        data = batch("dinov3", dtype=torch.float64)
        output = method.train()(data, progress)
        assert output.scalars["gram"] > 0
        assert not method.gram.module.training
        before = [p.clone() for p in method.gram.module.parameters()]
        method.after_step(output.staged, progress)
        assert any(not torch.equal(a, b) for a, b in zip(before, method.gram.module.parameters(), strict=True)) is fresh
    assert int(method.gram.taken) == 2


def test_chunks_give_the_whole_batchs_gradient_with_a_gram_term():
    method, data = made("dinov3", dtype=torch.float64), batch("dinov3", dtype=torch.float64)
    method.gram.update(method.teacher[0], 0.0)
    expected = whole(method, data)
    method.zero_grad()
    assert off(chunked(method, data, 4), expected) < 1e-10


def test_stretched_positions_are_those_of_multiplied_angles_and_leave_no_trace():
    """Of 2: sin 2a = 2 sin a cos a. Features of other positions are others, and the same again afterwards."""
    arguments = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 2}
    encoder = timm.create_model("vit_small_patch16_dinov3", num_classes=0, **arguments).eval()
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if "gamma" in name:  # LayerScale of 1e-5 would hide everything
                p.fill_(1.0)
            if "qkv.weight" in name:
                p.mul_(10)
    keys, x = list(encoder.state_dict()), torch.randn(2, 3, 32, 32)
    sin, cos = encoder.rope.get_embed((4, 4)).chunk(2, dim=1)
    before = encoder(x)
    with stretched(encoder, 2.0):
        twice = encoder.rope.get_embed((4, 4)).chunk(2, dim=1)
        assert (encoder(x) - before).abs().max() > 1e-3
    torch.testing.assert_close(twice[0], 2 * sin * cos, rtol=0, atol=1e-4)  # float32 angles of up to 4π
    torch.testing.assert_close(twice[1], 1 - 2 * sin**2, rtol=0, atol=1e-4)
    assert torch.equal(encoder(x), before)
    assert list(encoder.state_dict()) == keys


def test_positions_are_stretched_anew_each_step_and_alike_in_any_piece():
    method, data = made("dinov3"), batch("dinov3")
    (note,) = method.prepare(1000, 16)
    assert note.startswith("method.rope_rescale=2: this encoder has no rotary positions")
    encoder = timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=1, embed_dim=48, num_heads=2)
    method.encoder, periods = encoder, encoder.rope.periods

    def factor(one, crop: int) -> float:
        with method.around(one, crop):
            return float((periods / encoder.rope.periods)[0])

    steps_ = [replace(data, step=step) for step in range(50)]
    found = [factor(one, 0) for one in steps_]
    assert len(set(found)) == 50
    assert 0.5 <= min(found) < 0.7 < 1.4 < max(found) <= 2
    assert factor(steps_[3].split(4)[1], 1) == found[3] != factor(steps_[3], 2)
