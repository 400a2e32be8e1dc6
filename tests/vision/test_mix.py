"""mixup and CutMix: the papers' formulas, the same however the batch is cut."""
import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from vision.mix import blend, boxes, masks, shares

INDICES = torch.arange(4000)


def test_shares_are_beta_distributed():
    share, cut, _ = shares(0, 0, INDICES, 0.4, 0.0)
    assert not cut.any()
    assert kstest(share.numpy(), beta(0.4, 0.4).cdf).pvalue > 0.01
    share, cut, center = shares(0, 0, INDICES, 0.0, 1.0)
    assert cut.all()
    assert kstest(share.numpy(), "uniform").pvalue > 0.01
    assert kstest(center.flatten().numpy(), "uniform").pvalue > 0.01
    _, cut, _ = shares(0, 0, INDICES, 0.2, 1.0)
    assert 0.47 < cut.float().mean() < 0.53  # of 4,000 params: two standard deviations are .016


def test_they_are_a_function_of_seed_epoch_and_image():
    one, other = (shares(seed, epoch, INDICES, 0.4, 0.0)[0] for seed, epoch in ((0, 0), (0, 1)))
    assert not torch.equal(one, other)
    assert torch.equal(one[1000:1010], shares(0, 0, INDICES[1000:1010], 0.4, 0.0)[0])


def test_boxes_have_the_papers_area_and_stay_inside():
    """CutMix, §3.1: sides W√(1 − λ) and H√(1 − λ) around a uniform center."""
    share, center = torch.tensor([0.75, 0.75, 1.0, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    assert boxes(share, center, 20, 40).tolist() == [[5, 15, 10, 30], [0, 5, 0, 10], [10, 10, 20, 20], [0, 20, 0, 40]]


def test_mixup_is_its_formula_with_the_neighbor():
    x = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    own = masks(1, 2, torch.arange(6), 0.3, 0.0, 4, 4).double()
    share = shares(1, 2, torch.arange(6), 0.3, 0.0)[0].double()
    mixed = blend(x, own)
    for i in range(6):
        torch.testing.assert_close(mixed[i], share[i] * x[i] + (1 - share[i]) * x[i ^ 1], rtol=1e-6, atol=1e-6)  # λ is float32


def test_a_cut_shows_the_neighbor_in_its_box_and_labels_follow_the_area_that_is_left():
    x = torch.arange(8.0)[:, None, None, None].expand(8, 1, 16, 16)
    own = masks(0, 0, torch.arange(8), 0.0, 1.0, 16, 16)
    mixed, labels = blend(x, own), blend(torch.eye(8), own.mean((2, 3)))
    for i in range(8):
        assert set(np.unique(mixed[i])) <= {float(i), float(i ^ 1)}
        assert labels[i, i] == pytest.approx(float((mixed[i] == i).float().mean()), abs=1e-6)
        assert labels[i].sum() == pytest.approx(1, abs=1e-6)
    assert (mixed != x).any()


def test_pieces_of_a_batch_mix_as_the_whole():
    x, indices = torch.rand(8, 1, 6, 6), torch.randperm(100)[:8]

    def mixed(rows: slice) -> torch.Tensor:
        return blend(x[rows], masks(3, 1, indices[rows], 0.5, 0.5, 6, 6))

    assert torch.equal(mixed(slice(0, 8)), torch.cat([mixed(slice(0, 4)), mixed(slice(4, 8))]))
