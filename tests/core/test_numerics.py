"""Square root, unit length and cosine: torch's bits away from zero, a finite gradient at it."""
import torch
from torch.nn import functional as F

from core.numerics import cosine, safe_sqrt, unit


def test_away_from_zero_they_are_torchs_to_the_bit():
    a, b, g = (torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for ours, theirs in (
        (lambda x: safe_sqrt(x.square()), lambda x: x.square().sqrt()),
        (lambda x: unit(x, 2), lambda x: F.normalize(x, dim=2)),
        (lambda x: unit(x * 1e-13, 2), lambda x: F.normalize(x * 1e-13, dim=2)),
        (lambda x: cosine(x, b, 2)[..., None], lambda x: F.cosine_similarity(x, b, dim=2)[..., None]),
    ):
        found = []
        for f in (ours, theirs):
            x = a.clone().requires_grad_()
            y = f(x)
            (y * g).sum().backward()
            found += [y.detach(), x.grad]
        assert torch.equal(found[0], found[2])
        assert torch.equal(found[1], found[3])


def test_at_zero_value_and_gradient_are_zero():
    other = torch.ones(2, 3)
    for f in (safe_sqrt, lambda x: unit(x, 1), lambda x: cosine(x, other), lambda x: cosine(other, x)):
        x = torch.zeros(2, 3, requires_grad=True)
        y = f(x)
        (y * 3).sum().backward()
        assert not y.any()
        assert not x.grad.any()


def test_the_root_of_a_negative_rounding_is_zero():
    assert safe_sqrt(torch.tensor(-1e-9)) == 0
