"""Barlow Twins: Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: self-supervised learning via redundancy reduction",
ICML 2021, arXiv 2103.03230, algorithm 1.

The cross-correlation of two views' embeddings, over the global batch, is pulled to the identity. `scale` multiplies the
loss, as in the authors' code, where it stands in for a learning rate of its own.
"""
import torch
from torch import Tensor, nn

from core.method import Method, Output, Traits, at_least_fp32, each_view
from core.processes import total, world_size
from ssl.method import unordered_pairs
from vision.heads import mlp

EPS = 1e-5  # of the BatchNorm that standardises embeddings in the authors' code


def barlow_twins_loss(first: Tensor, second: Tensor, off_diagonal: float) -> Tensor:
    """Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², eq. 1; C: correlation of each pair of dimensions over the global batch, eq. 2.

    first, second: B,P.  off_diagonal: λ.
    """
    N = len(first) * world_size()
    with torch.autocast(first.device.type, enabled=False):
        C = total(standardised(at_least_fp32(first)).T @ standardised(at_least_fp32(second))) / N  # P,P
        diagonal = C.diagonal()
        return (1 - diagonal).square().sum() + off_diagonal * (C.square().sum() - diagonal.square().sum())


def standardised(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 of every dimension over the global batch.  B,P → B,P"""
    N = len(z) * world_size()
    centred = z - total(z.sum(0)) / N
    return centred * (total(centred.square().sum(0)) / N + EPS).rsqrt()


class BarlowTwins(Method):
    traits = Traits(static_step=True)

    def __init__(self, encoder: nn.Module, hidden: int, dim: int, off_diagonal: float, scale: float):
        super().__init__()
        if not (off_diagonal >= 0 and scale > 0):
            raise ValueError(f"method.off_diagonal={off_diagonal}, method.scale={scale}: must be 0 or more, and more than 0")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim], last_bias=False)
        self.off_diagonal, self.scale = off_diagonal, scale

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = each_view(self.projector, features)  # B,V,P
        losses = [barlow_twins_loss(z[:, a], z[:, b], self.off_diagonal) for a, b in unordered_pairs(z.shape[1])]
        return Output(self.scale * torch.stack(losses).mean())
