"""Schedules are functions of progress: right at their ends, joined without a jump, torch's cosine in between."""
import math

import pytest
import torch

from core.schedule import cosine, warmup_cosine


def test_cosine_runs_from_start_to_end():
    assert cosine(0.0, 0.99, 1.0) == pytest.approx(0.99, abs=1e-12)
    assert cosine(0.5, 0.99, 1.0) == pytest.approx(0.995, abs=1e-12)
    assert cosine(1.0, 0.99, 1.0) == 1.0
    values = [cosine(i / 50, 3.0, -1.0) for i in range(51)]
    assert values == sorted(values, reverse=True)


def test_momentum_is_the_formula_of_byol_and_moco_v3():
    """1 − (1 − m)·(cos(πk/K) + 1)/2, Grill et al. 2020 (arXiv 2006.07733), §3.3."""
    for k in range(10):
        formula = 1 - (1 - 0.99) * (math.cos(math.pi * k / 10) + 1) / 2
        assert cosine(k / 10, 0.99, 1.0) == pytest.approx(formula, abs=1e-12)


def test_after_the_warm_up_it_is_torchs_cosine_annealing():
    steps, warm = 50, 10
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    torchs = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm, eta_min=0.01),
        ],
        [warm],
    )
    for step in range(steps):
        ours = warmup_cosine(step / steps, peak=0.4, warmup=warm / steps, start=0.04, end=0.01)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        torchs.step()


def test_no_warm_up_starts_at_the_peak():
    assert warmup_cosine(0.0, peak=0.3, warmup=0.0, start=0.1) == pytest.approx(0.3)
    assert warmup_cosine(1 - 1e-9, peak=0.3, warmup=0.0, end=0.02) == pytest.approx(0.02)
