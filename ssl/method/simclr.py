"""SimCLR: Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive learning of visual representations",
ICML 2020, arXiv 2002.05709.

As in the authors' code, both views go through the network as one batch, and the projection's output layer has a
BatchNorm that scales without shifting. The loss is computed in tiles and so fits any batch (ssl/losses.py).
"""
import torch
from torch import Tensor, nn

from core.method import Method, Output, Traits, each_view
from ssl.losses import nt_xent
from ssl.method import check_constants, unordered_pairs
from vision.heads import mlp


class SimCLR(Method):
    traits = Traits(joint_views=True, static_step=True)

    def __init__(self, encoder: nn.Module, hidden: int, dim: int, temperature: float):
        super().__init__()
        check_constants(temperature)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim], last_norm="scale")
        self.temperature = temperature

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        z = each_view(self.projector, features, joint=True)  # B,V,P
        losses = [self.contrast(z[:, a], z[:, b]) for a, b in unordered_pairs(z.shape[1])]
        return Output(torch.stack(losses).mean())

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        return nt_xent(first, second, self.temperature)
