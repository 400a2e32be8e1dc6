"""Labelled subsets are proportional, nested, and functions of seed and draw."""
from itertools import pairwise

import numpy as np
import pytest
import torch

from core import counter_rng
from linear_eval import subsets

SIZES = [1, 3, 40, 250, 1000]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), SIZES))
SHARES = [0.001, 0.01, 0.013, 0.1, 0.25, 0.5, 0.999, 1.0]


def test_a_share_is_proportional_and_leaves_no_class_out():
    for share in SHARES:
        rows = subsets.share(LABELS, share, 0, 0)
        counts = np.bincount(LABELS[rows], minlength=5)
        assert (counts >= 1).all()
        assert (np.abs(counts - share * np.array(SIZES)) <= np.where(counts == 1, 1, 0.5)).all()
    assert np.bincount(LABELS[subsets.share(LABELS, 0.1, 0, 0)]).tolist() == [1, 1, 4, 25, 100]
    assert np.array_equal(subsets.share(LABELS, 1.0, 0, 0), np.arange(len(LABELS)))


def test_so_many_a_class():
    for count in (1, 5, 100, 5000):
        rows = subsets.per_class(LABELS, count, 0, 0)
        assert np.bincount(LABELS[rows]).tolist() == [min(count, size) for size in SIZES]


@pytest.mark.parametrize("draw", [0, 3])
def test_smaller_subsets_lie_in_larger_ones(draw):
    for choose, amounts in ((subsets.share, SHARES), (subsets.per_class, [1, 2, 7, 40, 900])):
        nested = [set(choose(LABELS, amount, 1, draw).tolist()) for amount in amounts]
        assert all(a <= b for a, b in pairwise(nested))


def test_indices_are_sorted_int64_and_classes_may_be_missing():
    labels = torch.from_numpy(LABELS) * 2  # no odd class
    for rows in (subsets.share(labels, 0.1, 0, 0), subsets.per_class(labels, 3, 0, 0)):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
    assert np.array_equal(subsets.share(labels, 0.1, 0, 0), subsets.share(LABELS, 0.1, 0, 0))


def test_seed_and_draw_choose_the_images():
    chosen = [tuple(subsets.share(LABELS, 0.1, seed, draw)) for seed in (0, 1) for draw in (0, 1)]
    assert len(set(chosen)) == 4
    assert chosen == [tuple(subsets.share(LABELS, 0.1, seed, draw)) for seed in (0, 1) for draw in (0, 1)]


def test_every_image_of_a_class_is_as_likely():
    """Of 40 images 4 are drawn 400 times: each about 40 times, within 5 deviations of the binomial (6)."""
    labels = np.zeros(40, np.int64)
    times = np.bincount(np.concatenate([subsets.per_class(labels, 4, 0, draw) for draw in range(400)]), minlength=40)
    assert np.abs(times - 40).max() < 5 * 6


def test_its_random_numbers_are_no_others():
    named = {value for name, value in vars(counter_rng).items() if name.isupper() and isinstance(value, int)}
    assert len(named) >= 4
    assert subsets.LABELED not in named
    assert 0xFFFF0000 < subsets.LABELED <= 0xFFFFFFFF  # no view, and one word


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_wrong_share_says_so(share):
    with pytest.raises(ValueError, match="give more than 0 and at most 1"):
        subsets.share(LABELS, share, 0, 0)


def test_a_wrong_count_says_so():
    with pytest.raises(ValueError, match="give 1 or more"):
        subsets.per_class(LABELS, 0, 0, 0)
