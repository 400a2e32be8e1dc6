"""VISReg: Wu, Balestriero, Levine, "VISReg: Variance-Invariance-Sketching Regularization for JEPA training", 2026,
arXiv 2606.02572, algorithm 1.

As LeJEPA, no teacher, no stop-gradient between views, no negatives: views are pulled to their mean, and each view's embeddings
over the global batch to an isotropic Gaussian, in three terms apart: center, scale, and the shape that is left when both are
taken out, one random direction at a time. The scale's gradient stays where embeddings collapse.

In the paper each process regularizes its own part of the batch; here the batch is the global one, and processes share the
directions, which are a function of progress.
"""
import torch
from torch import Tensor, nn

from core.method import Method, Output, Traits, at_least_fp32, check_natural, check_share, each_view
from core.numerics import safe_sqrt
from core.processes import gather, rank, world_size
from ssl.method import check_images
from ssl.method.lejepa import directions_at, invariance_loss
from vision.heads import mlp

EPS = 1e-4  # added to the deviation that the shape is divided by, as in lightly
TERMS = ("scale", "shape", "center")


def visreg_terms(z: Tensor, directions: Tensor) -> Tensor:
    """Scale (eq. 1), shape (eq. 5) and center (eq. 6) of every view over the global batch, averaged over views.  → 3

    scale: mean (1 − σ_d)²; center: mean μ_d²; shape: the squared sliced Wasserstein distance of (z − μ) / sg(σ) to a Gaussian,
    the mean over directions and ranks i of (z·a)_(i) less the quantile at i/(N+1), squared. Deviations are those of
    the sample itself, divided by N.
    z: B,V,P; directions: P,M of unit length, the same on all processes, of which each takes every W-th.  Raises ValueError for
    one image.
    """
    check_images("visreg", len(z), 2, "the deviation of one is not defined")
    with torch.autocast(z.device.type, enabled=False):
        z = gather(at_least_fp32(z))  # N,V,P
        N, M = len(z), directions.shape[1]
        center = z.mean(0)  # V,P
        deviation = safe_sqrt(z.var(0, correction=0))
        own = directions[:, rank() :: world_size()].to(z.dtype)
        projected = ((z - center) / (deviation.detach() + EPS)) @ own  # N,V,M/W
        ranks = torch.arange(1, N + 1, device=z.device, dtype=z.dtype) / (N + 1)
        error = projected.sort(dim=0).values - torch.special.ndtri(ranks)[:, None, None]
        shape = error.square().mean((0, 1)).sum() * world_size() / M
        return torch.stack([(1 - deviation).square().mean(), shape, center.square().mean()])


class VISReg(Method):
    traits = Traits(joint_views=True)

    def __init__(
        self, encoder: nn.Module, hidden: int, dim: int, slices: int, weight: float, scale: float, shape: float, center: float
    ):
        super().__init__()
        check_share(weight=weight)
        check_natural(scale=scale, shape=shape, center=center)
        if slices < world_size():
            raise ValueError(f"method.slices={slices}: needs one for each of {world_size()} processes at least")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim])
        self.dim, self.slices, self.weight = dim, slices, weight
        self.weights = (scale, shape, center)

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = at_least_fp32(each_view(self.projector, features, joint=True))  # B,V,P
        terms = visreg_terms(z, directions_at(progress, self.dim, self.slices, z.device))
        invariance = invariance_loss(z, self.traits.views)
        regular = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
        loss = self.weight * regular + (1 - self.weight) * invariance
        return Output(loss, {"invariance": invariance.detach()} | dict(zip(TERMS, terms.detach(), strict=True)))
