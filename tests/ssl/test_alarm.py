"""The rule by which an encoder is worse than it was."""
import pytest
import torch
from scipy.stats import binomtest

from ssl.alarm import Change, change, hits


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (9, 2), (60, 40), (40, 60), (700, 600)])
def test_the_p_value_is_scipys(lost, gained):
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1
    assert Change(lost, gained).p_value == pytest.approx(expected, rel=1e-9)


def test_noise_is_no_alarm_and_a_fall_is_one():
    assert not Change(0, 0).worse
    assert not Change(6, 0).worse  # 1/64
    assert Change(7, 0).worse  # 1/128
    assert not Change(55, 45).worse
    assert Change(200, 100).worse
    assert not Change(100, 200).worse


def test_images_that_could_not_be_read_both_times_do_not_count():
    before = hits(torch.tensor([0, 1, 2]), torch.tensor([True, True, False]), 5)
    now = hits(torch.tensor([0, 2, 3]), torch.tensor([False, True, True]), 5)
    assert before.tolist() == [1, 1, 0, -1, -1]
    assert change(before, now) == Change(lost=1, gained=1)
