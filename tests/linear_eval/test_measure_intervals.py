"""Intervals of quality and leakage are as wide as fresh images make figures vary; a set's own threshold is brute force."""
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from linear_eval.bootstrap import halves, interval, jackknife_interval, resamples, weight_blocks, weights
from linear_eval.features import rankme
from linear_eval.measures.leakage import FIXED, OWN, LeakageConfig, Positions, leakage, own_threshold
from linear_eval.measures.quality import QualityConfig, intrinsic_dimension, learnability, lidar, power_law, quality

CONFIG = QualityConfig(images=1000, alpha=[2, 12], clusters=5, learned=400, lidar_images=4, lidar_views=3, delta=1e-4)
SCALES = np.arange(1, 25) ** -0.7


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, len(SCALES))) * SCALES


def views(seed: int) -> torch.Tensor:
    """Three views of each of 120 images."""
    x = torch.from_numpy(images(120, seed)[:, None] + 0.1 * np.random.default_rng([seed, 1]).normal(size=(120, 3, len(SCALES))))
    return x.float()


def test_halves_have_no_image_twice_and_come_in_complements():
    found = list(halves(9, 3, 4))
    assert [len(one) for one in found] == [4, 5, 4, 5]
    assert all(sorted([*a, *b]) == list(range(9)) for a, b in (found[:2], found[2:]))
    assert not np.array_equal(found[0], found[2])
    assert len(list(halves(8, 0, 3))) == 3


def half_widths(seed: int) -> dict[str, float]:
    found = quality(images(300, seed), views(seed), CONFIG, seed, "encoder").figures
    return {figure.name: (figure.interval[1] - figure.interval[0]) / 2 / 1.96 for figure in found}


def test_intervals_of_quality_are_as_wide_as_fresh_images():
    """Against what nobody has with real images: 60 fresh sets of as many."""
    fresh = []
    for seed in range(100, 160):
        x, z = images(300, seed), np.linalg.svd(images(300, seed) - images(300, seed).mean(0), compute_uv=False)
        fresh.append({
            "RankMe": rankme(torch.from_numpy(x)), "stable rank": (z**2).sum() / z[0] ** 2, "alpha": power_law(z**2, 2, 12)[0],
            "LiDAR": lidar(views(seed), CONFIG.delta), "intrinsic dimension": intrinsic_dimension(x),
            "cluster learnability": 100 * learnability(x, CONFIG.clusters, seed),
        })  # fmt: skip
    widths = [half_widths(seed) for seed in range(4)]
    for name in fresh[0]:
        expected = np.std([one[name] for one in fresh], ddof=1)
        assert np.mean([one[name] for one in widths]) == pytest.approx(expected, rel=0.4), name


def test_a_resample_with_repeated_images_has_a_lower_rank():
    """Why quality has no percentile bootstrap: the figure itself lies outside of it."""
    x = images(60, 0)
    drawn = [rankme(torch.from_numpy(x[rows])) for rows in resamples(60, 0, 200)]
    assert interval(np.array(drawn))[1] < rankme(torch.from_numpy(x))


def test_every_figure_of_quality_has_an_interval_around_it():
    measure = quality(images(400, 0), views(0), CONFIG, 0, "encoder")
    for figure in measure.figures:
        low, high = figure.interval
        assert low < figure.value < high, figure
    assert measure == quality(images(400, 0), views(0), CONFIG, 0, "encoder")
    few = quality(images(2, 0), views(0)[:2], CONFIG, 0, "encoder")
    assert all(figure.interval is None for figure in few.figures)


def test_a_figure_that_most_halves_lack_has_no_interval():
    assert jackknife_interval(None, [1.0, 2.0]) is None
    assert jackknife_interval(1.0, [None, None, 2.0, None]) is None
    assert jackknife_interval(5.0, [4.0, 6.0]) == pytest.approx([5 - 1.96 * 2**0.5, 5 + 1.96 * 2**0.5])


def test_blocks_change_no_draw():
    whole = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), 50)
    assert np.array_equal(np.concatenate(list(weight_blocks(30, 4, 50, at_once=100))), whole)
    assert np.array_equal(weights(30, 4, 50), whole)
    for one, row in zip(resamples(30, 4, 50), whole, strict=True):
        assert np.array_equal(np.bincount(one, minlength=30), row)


def test_the_own_threshold_is_brute_force():
    x = images(120, 1)
    similarity = 1 - cdist(x, x, "cosine")
    np.fill_diagonal(similarity, -2)
    low, high = np.quantile(np.log(1 - similarity.max(1)), [0.25, 0.75])
    assert own_threshold(x.astype(np.float32)) == pytest.approx(1 - np.exp(low - 3 * (high - low)), rel=1e-4)
    assert own_threshold(x[:1]) == pytest.approx(1, abs=1e-5)
    assert own_threshold(np.repeat(x[:1], 6, 0)) == pytest.approx(1, abs=1e-5)


def test_alike_images_are_no_copies_and_copies_in_train_hide_none():
    """A narrow cone, where every image has a neighbor at cosine .99: the fixed threshold names all, the own one the copies."""
    train, test = (images(count, seed) * 0.02 + 1 for count, seed in ((200, 2), (50, 3)))
    train[180:] = train[:20]  # a tenth of train twice
    test[:4] = train[[5, 50, 100, 150]] * 3  # the same direction
    positions = Positions(np.arange(200), np.arange(50))
    found = leakage(train.astype(np.float32), test.astype(np.float32), positions, 0, LeakageConfig(0.99), 0, "encoder")
    assert (found.counts[FIXED], found.counts[OWN]) == (50, 4)
    assert sorted(test for test, _ in found.pairs[:4]) == [0, 1, 2, 3]
    shares = {figure.name: figure for figure in found.figures}
    assert shares[OWN].value == 8
    z, p, n = 1.959964, 4 / 50, 50  # Wilson's ends solve (p − q)² = z² q (1 − q) / n
    ends = np.sort(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]))
    assert shares[OWN].interval == pytest.approx(100 * ends, abs=1e-4)
    low, high = shares["nearest, median"].interval
    assert low < shares["nearest, median"].value < high
