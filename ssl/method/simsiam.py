"""SimSiam: Chen, He, "Exploring simple siamese representation learning", CVPR 2021, arXiv 2011.10566, algorithm 1.

No negatives, no teacher: stop-gradient on one side and a predictor on the other are enough. The predictor's learning
rate does not decay (§4.2 of the paper's ablations, and its released recipe).
"""
import torch
from torch import Tensor, nn

from core.method import Method, Output, Traits, at_least_fp32, each_view
from core.numerics import cosine
from ssl.method import pairs
from vision.heads import mlp


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """D(p, z) = −mean_i cos(p_i, z_i), eq. 1, with no gradient to z (eq. 3).  Both B,P, any length."""
    return -cosine(at_least_fp32(predictions), at_least_fp32(targets.detach())).mean()


class SimSiam(Method):
    traits = Traits(per_image=True, static_step=True, constant_lr=("predictor",))

    def __init__(self, encoder: nn.Module, hidden: int, dim: int, predictor_hidden: int):
        super().__init__()
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim], last_norm="plain")
        self.predictor = mlp([dim, predictor_hidden, dim])

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = each_view(self.projector, features)  # B,V,P
        p = each_view(self.predictor, z)
        losses = [negative_cosine(p[:, view], z[:, target]) for target, view in pairs(z.shape[1])]
        return Output(torch.stack(losses).mean())
