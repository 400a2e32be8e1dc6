"""Philox gives the words its authors publish, and what is drawn with it depends on nothing but its arguments."""
import pytest
import torch
from scipy import stats

from core import counter_rng

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(("counter", "key", "expected"), [  # Random123's kat_vectors, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_known_answers(counter, key, expected):
    bits = counter_rng.philox(tuple(torch.tensor(c) for c in counter), key)
    assert tuple(int(w) for w in bits) == expected


def test_random_bits_place_each_argument_in_the_counter():
    """(block, index, epoch, stream) and the seed's two halves as key: other places would change every existing run."""
    seed, epoch, index, stream = (7 << 32) | 5, 11, 13, 17
    got = counter_rng.random_bits(seed, epoch, torch.tensor([index]), stream, 6)[0].tolist()
    blocks = [counter_rng.philox(tuple(torch.tensor(c) for c in (b, index, epoch, stream)), (5, 7)) for b in (0, 1)]
    assert got == [int(w) for block in blocks for w in block][:6]


def test_uniform_numbers_are_uniform_and_independent():
    u = counter_rng.uniform(0, 0, torch.arange(20_000), 0, 4)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    for axis in (u.flatten(), u[:, 2], u[7_000:7_500].flatten()):
        assert stats.kstest(axis.numpy(), "uniform").pvalue > 1e-3  # the numbers are fixed: it passes or never does
    for other in (counter_rng.uniform(1, 0, torch.arange(20_000), 0, 4), counter_rng.uniform(0, 1, torch.arange(20_000), 0, 4),
                  counter_rng.uniform(0, 0, torch.arange(20_000), 1, 4), u.roll(1, 0), u.roll(1, 1)):
        correlation = torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 4 / 80_000**0.5  # four standard errors of 80,000 independent pairs


def test_an_image_gets_its_numbers_whatever_its_company():
    whole = counter_rng.random_bits(3, 2, torch.arange(100), 1, 9)
    some = torch.tensor([42, 7, 99, 7])
    assert torch.equal(counter_rng.random_bits(3, 2, some, 1, 9), whole[some])
    assert torch.equal(counter_rng.random_bits(3, 2, some[:1], 1, 5), whole[42:43, :5])  # nor how many are asked for
    assert counter_rng.random_bits(3, 2, some[:0], 1, 5).shape == (0, 5)


@pytest.mark.parametrize("length", [1, 2, 1000, 60_000])
def test_permutation_is_one_and_differs_by_epoch_seed_and_stream(length):
    order = counter_rng.permutation(0, 0, length)
    assert torch.equal(order.sort().values, torch.arange(length))
    assert torch.equal(order, counter_rng.permutation(0, 0, length))
    if length > 2:
        others = [counter_rng.permutation(*a) for a in ((0, 1, length), (1, 0, length), (0, 0, length, counter_rng.SHUFFLE))]
        for other in others:  # two independent permutations share one place on average; ten have odds of 1e-7
            assert (order == other).sum() < 10


def test_every_image_comes_first_equally_often():
    places = torch.stack([counter_rng.permutation(0, epoch, 10) for epoch in range(2_000)])
    for column in places.T:  # at each place, 2,000 draws of ten images
        assert stats.chisquare(column.bincount(minlength=10).numpy()).pvalue > 1e-3


def test_balanced_epochs_show_every_class_as_often():
    labels = torch.tensor([0] * 70 + [2] * 20 + [5] * 3 + [2] * 7)
    orders = [counter_rng.balanced(0, epoch, labels) for epoch in range(3)]
    for order in orders:
        assert len(order) == 100
        counts = labels[order].bincount()
        assert counts[[0, 2, 5]].max() - counts[[0, 2, 5]].min() <= 1
        assert len(set(order[labels[order] == 0].tolist())) == int(counts[0])  # enough images: none twice
        times = order[labels[order] == 5].bincount()[90:93]
        assert times.max() - times.min() <= 1  # too few: all as often as the others
        halves = labels[order[:50]].bincount(minlength=6)[[0, 2, 5]]
        assert halves.min() > 5  # spread over the epoch
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], counter_rng.balanced(0, 0, labels))
