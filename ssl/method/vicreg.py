"""VICReg: Bardes, Ponce, LeCun, "VICReg: variance-invariance-covariance regularization for self-supervised learning",
ICLR 2022, arXiv 2105.04906, algorithm 1.

Views are pulled together; a hinge keeps each dimension's standard deviation over the global batch at 1, and covariances
are pulled to zero. As in the authors' code the invariance is a mean over dimensions too (eq. 5 / P) and the variance term
the mean of both views' (eq. 6 sums them).
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Method, Output, Traits, at_least_fp32, each_view
from core.processes import total, world_size
from ssl.method import check_images, unordered_pairs
from vision.heads import mlp

EPS = 1e-4  # below the square root, eq. 2
TERMS = ("invariance", "variance", "covariance")


def vicreg_terms(first: Tensor, second: Tensor) -> Tensor:
    """Invariance (eq. 5), variance (eq. 1) and covariance (eq. 4) of two views.  B,P and B,P → 3

    Invariance is divided by P, variance is the two views' mean, covariance their sum, as in the authors' code.
    Raises ValueError for one image, whose variance is not defined.
    """
    check_images("vicreg", len(first), 2, "the variance over one is not defined")
    with torch.autocast(first.device.type, enabled=False):
        first, second = at_least_fp32(first), at_least_fp32(second)
        (v1, c1), (v2, c2) = _spread(first), _spread(second)
        return torch.stack([F.mse_loss(first, second), (v1 + v2) / 2, c1 + c2])


def vicreg_loss(first: Tensor, second: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """λ·s + µ·v + ν·c, eq. 6.  first, second: B,P."""
    s, v, c = vicreg_terms(first, second)
    return invariance * s + variance * v + covariance * c


def _spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of one view's embeddings, over the global batch."""
    N, P = len(z) * world_size(), z.shape[1]
    centred = z - total(z.sum(0)) / N
    covariance = total(centred.T @ centred) / (N - 1)  # P,P
    diagonal = covariance.diagonal()
    hinge = F.relu(1 - (diagonal + EPS).sqrt()).mean()
    return hinge, (covariance.square().sum() - diagonal.square().sum()) / P


class VICReg(Method):
    traits = Traits(static_step=True)

    def __init__(
        self, encoder: nn.Module, hidden: int, dim: int, invariance: float, variance: float, covariance: float
    ):
        super().__init__()
        for name, weight in zip(TERMS, (invariance, variance, covariance), strict=True):
            if not weight >= 0:
                raise ValueError(f"method.{name}={weight}: must be 0 or more")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim], last_bias=False)
        self.weights = (invariance, variance, covariance)

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = each_view(self.projector, features)  # B,V,P
        terms = torch.stack([vicreg_terms(z[:, a], z[:, b]) for a, b in unordered_pairs(z.shape[1])]).mean(0)
        loss = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
        return Output(loss, dict(zip(TERMS, terms.detach(), strict=True)))
