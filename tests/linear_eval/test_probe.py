"""Accuracy from few labels is scikit-learn's, on images drawn without looking."""
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from linear_eval import probe
from linear_eval.probe import few_labels


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    centres = torch.randn(4, 10, generator=torch.Generator().manual_seed(99))
    z = centres[labels] + 2.2 * torch.randn(count, 10, generator=generator)
    return z * torch.logspace(-3, 3, 10), labels  # features on very different scales


BANK, BANK_LABELS = clusters(300, 0)
QUERIES, LABELS = clusters(500, 1)


def chosen_images(monkeypatch, **settings) -> list[np.ndarray]:
    """The rows of the bank that each draw fits."""
    seen = []
    fit = StandardScaler.fit

    def watched(self, X, *rest):
        seen.append(np.array([np.flatnonzero((BANK.numpy() == x).all(1))[0] for x in X]))
        return fit(self, X, *rest)

    monkeypatch.setattr(probe.StandardScaler, "fit", watched)
    few_labels(BANK, BANK_LABELS, QUERIES, LABELS, **settings)
    return seen


def test_scores_are_those_of_scikit_learns_pipeline(monkeypatch):
    draws = chosen_images(monkeypatch, per_class=5, draws=3)
    monkeypatch.undo()
    scores = []
    for rows in draws:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(BANK.numpy()[rows], BANK_LABELS.numpy()[rows])
        scores.append(model.score(QUERIES.numpy(), LABELS.numpy()) * 100)
    mean, deviation = few_labels(BANK, BANK_LABELS, QUERIES, LABELS, per_class=5, draws=3)
    assert mean == pytest.approx(np.mean(scores), abs=0.21)  # one of 500 queries may sit on a boundary
    assert deviation == pytest.approx(np.std(scores), abs=0.21)
    assert 35 < mean < 90  # neither chance (25) nor certainty


def test_each_draw_takes_so_many_of_each_class_and_another_set(monkeypatch):
    draws = chosen_images(monkeypatch, per_class=5, draws=4)
    assert len(draws) == 4
    for rows in draws:
        assert np.bincount(BANK_LABELS.numpy()[rows]).tolist() == [5, 5, 5, 5]
        assert len(set(rows.tolist())) == 20
    assert len({tuple(sorted(rows)) for rows in draws}) == 4


def test_a_seed_repeats_and_another_does_not():
    first = few_labels(BANK, BANK_LABELS, QUERIES, LABELS, seed=0)
    assert few_labels(BANK, BANK_LABELS, QUERIES, LABELS, seed=0) == first
    assert few_labels(BANK, BANK_LABELS, QUERIES, LABELS, seed=1) != first


def test_a_class_with_fewer_images_gives_all_it_has(monkeypatch):
    rare = torch.cat([torch.arange(0, 300)[BANK_LABELS != 3], torch.arange(0, 300)[BANK_LABELS == 3][:2]])
    seen = []
    fit = StandardScaler.fit
    monkeypatch.setattr(probe.StandardScaler, "fit", lambda self, X, *r: seen.append(len(X)) or fit(self, X, *r))
    mean, _ = few_labels(BANK[rare], BANK_LABELS[rare], QUERIES, LABELS, per_class=5, draws=2)
    assert seen == [17, 17]
    assert 25 < mean < 90


def test_more_labels_are_worth_more():
    few, many = (few_labels(BANK, BANK_LABELS, QUERIES, LABELS, per_class=n)[0] for n in (1, 50))
    assert many > few + 10
