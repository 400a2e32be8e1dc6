"""Hadamard matrices, PHI-S rotations and principal components against scipy, scikit-learn and their definitions."""
import pytest
import torch
from processes import on
from scipy.linalg import hadamard as sylvester
from sklearn.decomposition import PCA
from torch import Tensor

from core.processes import local_rows
from distill.patch_basis import Basis, Moments
from distill.rotation import equal_variances, hadamard

ORDERS = (12, 20, 28, 36, 96, 192, 384, 576, 768, 1280)  # widths of encoders, and those of Paley's two constructions
CLOSE = dict(rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_powers_of_two_are_scipys(order):
    assert torch.equal(hadamard(order), torch.from_numpy(sylvester(order)).double())


@pytest.mark.parametrize("order", ORDERS)
def test_other_orders_have_entries_of_1_and_orthogonal_rows(order):
    found = hadamard(order)
    assert torch.equal(found.abs(), torch.ones_like(found))
    assert torch.equal(found @ found.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 45, 90])
def test_of_orders_without_one_planes_are_rotated(order):
    assert hadamard(order) is None
    variances = torch.linspace(0, 1, order, dtype=torch.float64) ** 4
    rotation = equal_variances(variances)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(order, dtype=torch.float64), **CLOSE)
    found = (rotation * variances) @ rotation.T
    torch.testing.assert_close(found.diagonal(), variances.mean().expand(order), **CLOSE)


def some(images: int = 40, patches: int = 5, width: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
    rows = torch.randn(images, patches, width, generator=generator, dtype=torch.float64) @ mixed + 3
    return rows.mean(1)[:, :7], rows


def fitted(components: int = 12, parts: int = 1) -> Basis:
    features, patches = some()
    basis = Basis(features.shape[1], patches.shape[2], components).double()
    moments = Moments(features.shape[1], patches.shape[2], torch.device("cpu"))
    for a, b in zip(local_rows(features).chunk(parts), local_rows(patches).chunk(parts), strict=True):
        moments.add(a, b)
    basis.fit(moments)
    return basis


@pytest.mark.parametrize("components", [12, 4])
def test_components_are_scikit_learns(components):
    features, patches = some()
    basis, rows = fitted(components), patches.flatten(0, 1)
    theirs = PCA(components).fit(rows.numpy())
    ours = basis.components.T
    cosines = (ours * torch.from_numpy(theirs.components_)).sum(1).abs()  # signs are arbitrary
    torch.testing.assert_close(cosines, torch.ones_like(cosines), **CLOSE)
    assert float(basis.explained) == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-9)
    torch.testing.assert_close(basis.features_mean, features.mean(0), **CLOSE)
    error = (basis.restore(basis.project(patches)) - patches).square().sum()
    of_dropped = (1 - basis.explained) * (rows - rows.mean(0)).square().sum()
    torch.testing.assert_close(error, of_dropped, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("components", [12, 4, 5])
def test_targets_have_equal_variances_and_an_inverse(components):
    _, patches = some()
    basis = fitted(components)
    kept = basis.project(patches)
    targets = basis.standardize(kept)
    variances = targets.flatten(0, 1).var(0, correction=0)
    torch.testing.assert_close(variances, torch.ones_like(variances), **CLOSE)
    torch.testing.assert_close(basis.unstandardize(targets), kept, **CLOSE)
    covariance = targets.flatten(0, 1).T.cov(correction=0)
    assert (covariance - covariance.diagonal().diag()).abs().max() > 1e-3, "PHI-S does not whiten"


def test_patches_that_are_all_equal_stay_finite():
    basis, moments = Basis(3, 4, 4), Moments(3, 4, torch.device("cpu"))
    moments.add(torch.ones(5, 3), torch.ones(5, 2, 4))
    basis.fit(moments)
    targets = basis.standardize(basis.project(torch.ones(1, 2, 4)))
    assert all(value.isfinite().all() for value in (targets, *basis.state_dict().values()))


def state(parts: int) -> dict[str, Tensor]:
    return fitted(4, parts).state_dict()


@pytest.mark.slow
def test_parts_and_processes_are_one():
    whole = state(1)
    for found in (state(4), *on(2, state, 1)):
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-9)
