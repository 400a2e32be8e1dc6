"""The rule by which an encoder is worse than it was, and how often it errs."""
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from linear_eval.knn import knn, knn_left_out
from ssl.alarm import Change, change, hits, is_worse, left_out_hits


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (9, 2), (60, 40), (40, 60), (700, 600)])
def test_the_p_value_is_scipys(lost, gained):
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1
    assert Change(lost, gained).p_value == pytest.approx(expected, rel=1e-9)


def test_noise_is_no_alarm_and_a_fall_is_one():
    assert not is_worse([Change(0, 0)])
    assert not is_worse([Change(6, 0)])  # 1/64
    assert is_worse([Change(7, 0)])  # 1/128
    assert not is_worse([Change(55, 45)])
    assert is_worse([Change(200, 100)])
    assert not is_worse([Change(100, 200)])


def test_two_checks_in_a_row_need_less_each():
    assert is_worse([Change(6, 0), Change(6, 0)])
    assert not is_worse([Change(6, 0), Change(3, 3), Change(6, 0)])
    assert not is_worse([Change(7, 0), Change(3, 3)]), "it has passed"


def runs_with_an_alarm(fall: float, runs: int = 200, images: int = 400, correlation: float = 0.8) -> float:
    """Share of runs of 10 checks, 90 % of the images right at the start; each check resembles the last, and margins fall."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(runs):
        margin, noise, changes = rng.standard_normal(images) + 1.43, rng.standard_normal(images), []
        start = margin + 0.5 * noise > 0
        for check in range(1, 11):
            noise = correlation * noise + (1 - correlation**2) ** 0.5 * rng.standard_normal(images)
            now = margin - fall * check / 10 + 0.5 * noise > 0
            changes.append(Change(int((start & ~now).sum()), int((~start & now).sum())))
        alarms += any(is_worse(changes[:seen]) for seen in range(1, 11))
    return alarms / runs


def test_how_often_it_errs_and_how_often_it_finds_a_fall():
    """The rates of docs/own_images.md, from fewer runs."""
    assert runs_with_an_alarm(0.0) < 0.1
    assert runs_with_an_alarm(0.3) > 0.9  # from 90 to 85 %


def test_an_image_left_out_is_classified_by_the_others():
    rng = np.random.default_rng(0)
    rows, labels = torch.from_numpy(rng.standard_normal((60, 4)).astype(np.float32)), torch.from_numpy(rng.integers(0, 3, 60))
    rows[30:55] = rows[0]  # more copies than neighbors
    places = torch.tensor([0, 3, 17, 40, 59])
    found = knn_left_out(rows, labels, places, 3)
    for place, one in zip(places.tolist(), found, strict=True):
        if place in (0, 40):
            continue  # which of its copies are near enough is the library's choice
        others = torch.arange(60) != place
        assert one == knn(rows[others], labels[others], rows[place : place + 1], 3)[0]
    right = left_out_hits(rows, labels, torch.arange(60), 60, 3)
    assert [int(right[place]) for place in places] == [int(a == labels[b]) for a, b in zip(found, places, strict=True)]
    assert left_out_hits(rows[:5], labels[:5], torch.tensor([0, 2, 3, 7, 9]), 10, 3).eq(-1).sum() == 5


def test_images_that_could_not_be_read_both_times_do_not_count():
    before = hits(torch.tensor([0, 1, 2]), torch.tensor([True, True, False]), 5)
    now = hits(torch.tensor([0, 2, 3]), torch.tensor([False, True, True]), 5)
    assert before.tolist() == [1, 1, 0, -1, -1]
    assert change(before, now) == Change(lost=1, gained=1)


def test_a_start_of_fewer_images_is_compared_on_those():
    assert change(torch.tensor([1, 1]), torch.tensor([1, 0, 0], dtype=torch.int8)) == Change(lost=1, gained=0)
