"""What each loss is for: balanced assignments, zero where the paper says zero, Gaussians told from what is none."""
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl.method.barlow_twins import EPS, barlow_twins_loss
from ssl.method.byol import byol_loss
from ssl.method.lejepa import sigreg
from ssl.method.swav import sinkhorn
from ssl.method.vicreg import vicreg_terms

# ---- sinkhorn


def test_sinkhorn_uses_all_prototypes_alike_after_enough_iterations():
    z, prototypes = F.normalize(torch.randn(40, 5).double(), dim=1), F.normalize(torch.randn(8, 5).double(), dim=1)
    few, many = (sinkhorn(z @ prototypes.T, 0.05, iterations) for iterations in (3, 300))
    for codes in (few, many):
        torch.testing.assert_close(codes.sum(1), torch.ones(40).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(many.sum(0), torch.full((8,), 40 / 8).double(), rtol=1e-6, atol=0)
    assert (few.sum(0) - 5).abs().max() > 1e-3  # three iterations are not many


def test_sinkhorn_solves_the_papers_problem():
    """Eq. 3–4: the assignment of most score and entropy is e^(s/ε) times a factor a row and a factor a column."""
    scores = torch.rand(12, 7).double() * 2 - 1
    extra = sinkhorn(scores, 0.1, 5).log() - scores / 0.1
    interaction = extra - extra.mean(0) - extra.mean(1, keepdim=True) + extra.mean()
    assert interaction.abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sinkhorn_stays_finite_and_right_at_cosines_of_one_and_minus_one(dtype):
    """e^(1/0.05) = 5e8 and e^(−1/0.05) = 2e-9, squared by the shift to e^(−40): all within float32's 1e-38."""
    scores = torch.ones(64, 16, dtype=dtype)
    scores[:, 8:] = -1
    scores[:8] *= -1
    codes = sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.double(), sinkhorn(scores.double(), 0.05, 3), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    assert not sinkhorn(torch.randn(4, 3, requires_grad=True).tanh(), 0.05, 3).requires_grad


# ---- BYOL, Barlow Twins, VICReg


def test_byol_goes_from_zero_at_equal_directions_to_four_at_opposite_ones():
    z = torch.randn(9, 5).double()
    assert byol_loss(3 * z, z).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(-z, 0.1 * z).item() == pytest.approx(4, rel=1e-12)


def whitened(N: int, P: int) -> Tensor:
    """Mean 0 and covariance exactly the identity."""
    z = torch.randn(N, P).double()
    return torch.linalg.qr(z - z.mean(0)).Q * math.sqrt(N)


def test_barlow_twins_is_zero_for_whitened_embeddings_that_agree():
    """But for ε in the variance, which leaves each correlation at 1/(1 + ε). Scale and shift of a dimension do not matter."""
    z = whitened(50, 6)
    assert barlow_twins_loss(z, z, 0.005).item() == pytest.approx(6 * (EPS / (1 + EPS)) ** 2, rel=1e-6)
    scale, shift = torch.rand(6).double() + 1, torch.randn(6).double()
    assert barlow_twins_loss(z, z * scale + shift, 0.005).item() < 6 * EPS**2
    assert barlow_twins_loss(z, -z, 0.005).item() == pytest.approx(6 * 2**2, rel=1e-4)  # C = −1
    same = z[:, :1].expand(50, 6)
    assert barlow_twins_loss(same, same, 0.005).item() == pytest.approx(0.005 * 6 * 5, rel=1e-4)  # all redundant


def test_vicregs_terms_are_what_they_should_be_for_whitened_collapsed_and_independent_embeddings():
    z = whitened(50, 6) * math.sqrt(49 / 50)  # unbiased variance of 1
    assert vicreg_terms(z, 2 * z).tolist() == pytest.approx([49 / 50, 0, 0], abs=1e-4)  # mean of z², no hinge, no covariance
    constant = torch.ones(50, 6).double()
    assert vicreg_terms(constant, constant).tolist() == pytest.approx([0, 1 - 0.01, 0], abs=1e-12)  # √1e-4 is left

    # Independent dimensions: E c_jk² = 1/(N − 1), so c(Z) + c(Z') = 2·P(P − 1)/P · 1/(N − 1).
    # P(P − 1)/2 pairs a view, each 2c²/P with variance 2/(N − 1)²: deviation √(2·P(P − 1)/2·4·2)/(P(N − 1)) ≈ 2.8/(N − 1).
    N, P = 200, 60
    covariance = vicreg_terms(torch.randn(N, P), torch.randn(N, P))[2].item()
    assert covariance == pytest.approx(2 * (P - 1) / (N - 1), abs=5 * 2.8 / (N - 1))


# ---- SIGReg


def knots(count: int = 17) -> list[tuple[float, float, float]]:
    """Each t with its trapezoid's weight over [−3, 3], and φ(t)."""
    step = 3 / (count - 1)
    return [(t := k * step, (1 if k in (0, count - 1) else 2) * step, math.exp(-t * t / 2)) for k in range(count)]


def statistics(sample, N: int, repeats: int = 400) -> Tensor:
    """SIGReg of one view at a time, along one direction of a single dimension."""
    return torch.stack([sigreg(sample(N, 1, 1).double(), torch.ones(1, 1).double()) for _ in range(repeats)])


def assert_mean(found: Tensor, expected: float) -> None:
    assert abs(found.mean() - expected) < 4.5 * found.std() / math.sqrt(len(found))  # 7 in a million by chance


@pytest.mark.parametrize("N", [8, 256])
def test_sigreg_of_gaussians_is_the_statistics_null_expectation_at_any_batch_size(N):
    """E|φ_N − φ|² = (1 − φ²)/N, so N·E∫|φ_N − φ|² φ dt = ∫ φ − φ³ dt ≈ √2π (1 − 1/√3) = 1.06, less its tails beyond 3."""
    expected = sum(w * phi * (1 - phi**2) for _, w, phi in knots())
    assert expected == pytest.approx(math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)), rel=0.02)
    assert_mean(statistics(torch.randn, N), expected)


def test_sigreg_of_uniform_and_of_binary_numbers_grows_with_the_batch():
    """Mean 0 and variance 1 like the Gaussian. E|φ_N − φ|² = (ψ − φ)² + (1 − ψ²)/N, ψ(t) the real function of theirs."""
    uniform = lambda *shape: (torch.rand(*shape) * 2 - 1) * math.sqrt(3)  # noqa: E731
    binary = lambda *shape: torch.randint(2, shape) * 2.0 - 1  # noqa: E731
    for sample, psi in (
        (uniform, lambda t: math.sin(math.sqrt(3) * t) / (math.sqrt(3) * t) if t else 1.0),
        (binary, math.cos),
    ):
        far = sum(w * phi * (psi(t) - phi) ** 2 for t, w, phi in knots())
        for N in (32, 2048):
            noise = sum(w * phi * (1 - psi(t) ** 2) for t, w, phi in knots())
            assert_mean(statistics(sample, N, 100), N * far + noise)
        assert 2048 * far > 5 * noise


def test_sigreg_is_large_for_collapsed_embeddings_and_pushes_them_apart():
    N, P = 64, 8
    directions = F.normalize(torch.randn(P, 32), dim=0).double()
    collapsed = sigreg(torch.zeros(N, 2, P).double(), directions)
    assert collapsed.item() == pytest.approx(N * sum(w * phi * (1 - phi) ** 2 for _, w, phi in knots()), rel=1e-12)
    gaussian = sigreg(torch.randn(N, 2, P).double(), directions)
    assert collapsed > 10 * gaussian

    z = (0.1 * torch.randn(N, 2, P).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(sigreg(z, directions), z)
    assert ((z * gradient).sum((0, 2)) < 0).all()  # going down it, both views' spread grows
