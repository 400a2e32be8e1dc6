"""SimCLR: Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive learning of visual representations",
ICML 2020, arXiv 2002.05709.

As in the authors' code, both views go through the network as one batch, and the projection's output layer has a
BatchNorm that scales without shifting. The loss is computed in tiles and so fits any batch (ssl/losses.py).
"""
import torch
from torch import Tensor, nn

from core.method import Batch, Method
from ssl.losses import nt_xent
from ssl.method import check_constants
from vision.heads import mlp


class SimCLR(Method):
    def __init__(self, encoder: nn.Module, hidden: int, dim: int, temperature: float):
        super().__init__()
        check_constants(temperature)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim], last_norm="scale")
        self.temperature = temperature

    def embed(self, batch: Batch) -> Tensor:
        return self.projector(self.encoder(torch.cat(batch.views)))  # 2*B,P

    def objective(self, embeddings: Tensor, progress: float) -> tuple[Tensor, dict]:
        first, second = embeddings.chunk(2)
        return nt_xent(first, second, self.temperature), {}

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        return self.objective(self.embed(batch), progress)
