"""NNCLR: Dwibedi, Aytar, Tompson, Sermanet, Zisserman, "With a little help from my friends: nearest-neighbor
contrastive learning of visual representations", ICCV 2021, arXiv 2104.14548, algorithm 1.

SimCLR whose positive is the nearest neighbour, in a queue of earlier embeddings, of an image's other view. As in the
paper's pseudo-code the queue takes the first view's embeddings.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Method, Output, Record, Traits, at_least_fp32, each_view
from core.numerics import unit
from ssl.losses import contrastive, global_rows, nearest
from ssl.method import check_constants, check_views, pairs
from vision.heads import mlp


def nnclr_loss(neighbours: Tensor, predictions: Tensor, temperature: float) -> Tensor:
    """−mean_i log [ exp(nn_i·p_i/T) / Σ_k exp(nn_i·p_k/T) ], eq. 3, k over the global batch.  Both B,P, any length."""
    keys, own = global_rows(unit(at_least_fp32(predictions), dim=1))
    return contrastive(unit(at_least_fp32(neighbours), dim=1), keys, own, temperature)


@dataclass(frozen=True)
class Staged(Record):
    embeddings: Tensor  # B,P: the first view's, for the queue


class NNCLR(Method):
    traits = Traits(static_step=True)

    def __init__(
        self, encoder: nn.Module, hidden: int, dim: int, predictor_hidden: int, temperature: float, queue_size: int
    ):
        super().__init__()
        check_constants(temperature)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim], last_norm="affine")
        self.predictor = mlp([dim, predictor_hidden, dim])
        self.queue = Queue(queue_size, dim)
        self.temperature = temperature

    def prepare(self, images: int, batch_size: int) -> list[str]:
        return self.queue.fit(images, batch_size)

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        check_views(features.shape[1])
        z = each_view(self.projector, features)  # B,V,P
        p = each_view(self.predictor, z)
        z = unit(at_least_fp32(z.detach()), dim=2)
        neighbours = [nearest(z[:, t], self.queue.rows)[:, 0] for t in range(self.traits.views)]  # B,P each
        losses = [nnclr_loss(neighbours[t], p[:, view], self.temperature) for t, view in pairs(z.shape[1])]
        return Output(torch.stack(losses).mean(), staged=Staged(z[:, 0]))

    def after_step(self, staged: Staged, progress: float) -> None:
        self.queue.commit(staged.embeddings)
