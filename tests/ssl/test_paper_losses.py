"""Every loss and its gradients equal the paper's equation, written as loops (equations.py), in any precision."""
import pytest
import torch
from loss_cases import CASES, LABELS, value_and_gradients
from torch import Tensor

from ssl import losses
from ssl.losses import log_sum_exp
from ssl.method.lejepa import _Characteristic

WITH_TARGETS = ("simsiam", "dino", "ijepa", "ibot", "dinov2_classes", "dinov2_patches", "gram")  # which get no gradient
FLOAT32 = 1e-6  # sums of a few dozen float32 terms, each rounded at 6e-8 of its size


def assert_close(ours: list[Tensor], reference: list[Tensor], relative: float) -> None:
    for mine, theirs in zip(ours, reference, strict=True):
        mine, theirs = mine.double(), theirs.double()
        assert (mine - theirs).norm() <= relative * theirs.norm()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_the_papers_loops(name):
    case = CASES[name]
    inputs = case.inputs(torch.float32)
    reference = value_and_gradients(case.paper, [x.double() for x in inputs], case.rows)
    assert all(g.norm() > 0 for g in reference[1:]) or name in WITH_TARGETS
    ours = value_and_gradients(case.ours, [x.double() for x in inputs], case.rows)
    assert_close(ours, reference, 1e-9)
    assert_close(value_and_gradients(case.ours, inputs, case.rows), reference, FLOAT32 * case.sharpest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.half])
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    """As autocast hands them over: finite, and what float32 makes of the same rounded numbers."""
    case = CASES[name]
    inputs = case.inputs(dtype)
    low = value_and_gradients(case.ours, inputs, case.rows, autocast=True)
    exact = value_and_gradients(case.ours, [x.float() for x in inputs], case.rows)
    assert low[0].dtype == torch.float32
    assert low[0].item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert all(g.dtype == dtype and g.isfinite().all() for g in low[1:])
    assert_close(low[1:], exact[1:], 2**-8)  # handed back in bfloat16's 8 bits


@pytest.mark.parametrize("name", CASES)
def test_extremes_stay_finite(name):
    """Nearly collapsed and very large embeddings, in float32."""
    case = CASES[name]
    for scale, offset in ((1e-6, 1.0), (1e3, 0.0)):
        if name in ("dino", "log_sum_exp") and scale > 1:
            scale = 30  # logits; nobody normalises them here
        inputs = case.inputs(torch.float32, scale, offset)
        assert all(x.isfinite().all() for x in value_and_gradients(case.ours, inputs, case.rows))


@pytest.mark.parametrize("name", CASES)
def test_a_dimension_that_is_zero_for_all_images_has_a_finite_gradient(name):
    """As after a BatchNorm with nothing to normalise, whose bias starts at zero."""
    case = CASES[name]
    inputs = case.inputs(torch.float32)
    for x in inputs:
        x[..., 0] = 0
    assert all(x.isfinite().all() for x in value_and_gradients(case.ours, inputs, case.rows))


def test_log_sum_exp_passes_gradcheck_with_several_skipped_keys_and_over_tiles(monkeypatch):
    monkeypatch.setattr(losses, "TILE", 1)  # tiles of 64 rows: 66 are two
    queries, keys = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (66, 7))
    skipped = torch.rand(66, 7).argsort(1)[:, :3]
    assert torch.autograd.gradcheck(lambda q, k: log_sum_exp(q, k, 0.5, skipped), (queries, keys))
    with torch.no_grad():
        scores = (queries @ keys.T / 0.5).scatter(1, skipped, -torch.inf)
        torch.testing.assert_close(log_sum_exp(queries, keys, 0.5, skipped), scores.logsumexp(1), rtol=1e-12, atol=0)


def test_a_key_skipped_twice_is_skipped_once():
    queries, keys = torch.randn(3, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    once, twice = torch.tensor([[1], [2], [4]]), torch.tensor([[1, 1], [2, 2], [4, 4]])
    assert torch.equal(log_sum_exp(queries, keys, 1.0, once), log_sum_exp(queries, keys, 1.0, twice))


def test_characteristic_function_passes_gradcheck():
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Characteristic.apply(x, 0.75, 5), (x,))


def test_a_class_of_one_image_still_has_its_other_view():
    """Else SupCon would divide by no positives; with one image a class it has one."""
    case = CASES["supcon"]
    assert (LABELS == 3).sum() == 1
    assert all(x.isfinite().all() for x in value_and_gradients(case.ours, case.inputs(), case.rows))
