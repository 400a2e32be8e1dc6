"""SwAV: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised learning of visual features by contrasting
cluster assignments", NeurIPS 2020, arXiv 2006.09882, algorithm 1.

Embeddings are assigned to prototypes so that all are used alike (Sinkhorn's iterations over the global batch), and each
view predicts the assignment of another one. Prototypes have unit length: they are normalised after each step, where the
authors' code does it before the next. A queue of earlier embeddings helps Sinkhorn where a batch is small; it fills from
the first step and counts from `queue_from` on. `freeze_prototypes` and `queue_from` are shares of the run (1: never).
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.memory import Queue
from core.method import Method, Output, Record, Traits, at_least_fp32, each_view
from core.numerics import unit
from core.processes import local_rows, total, world_size
from ssl.collapse import assignment_scalars
from ssl.method import check_constants, check_views, pairs
from vision.heads import mlp

SMALLEST_EPSILON = 0.024  # below, exp(−2/ε) is no normal float32


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments that use each of K prototypes alike over the global batch (§3.1, eq. 3–5).  B,K → B,K

    scores: inner products of unit vectors, at most 1, so that exp((s − 1)/ε) cannot overflow; a factor common to all
    makes no difference. Rows sum to one; columns to N/K.
    """
    Q = ((at_least_fp32(scores) - 1) / epsilon).exp()
    K = Q.shape[1]
    for _ in range(iterations):
        Q = Q / (K * total(Q.sum(0)))
        Q = Q / Q.sum(1, keepdim=True)
    return Q


def swapped_prediction(scores: Tensor, assignments: Tensor, temperature: float) -> Tensor:
    """mean_i −Σ_k q_ik · log softmax(s_i/T)_k, eq. 2.  Both B,K; scores of one view, assignments of another."""
    return -(assignments * F.log_softmax(at_least_fp32(scores) / temperature, dim=1)).sum(1).mean()


@dataclass(frozen=True)
class Staged(Record):
    embeddings: Tensor  # B,2,P: those of the views that are assigned, for the queues


class SwAV(Method):
    traits = Traits(joint_views=True)

    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        prototypes: int,
        temperature: float,
        epsilon: float,
        iterations: int,
        queue_size: int,
        queue_from: float,
        freeze_prototypes: float,
    ):
        super().__init__()
        check_constants(temperature)
        if not epsilon >= SMALLEST_EPSILON or iterations < 1:
            raise ValueError(f"method.epsilon={epsilon}, method.iterations={iterations}: at least {SMALLEST_EPSILON} and 1")
        self.traits = replace(self.traits, frozen_until={"prototypes": freeze_prototypes})
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim])
        self.prototypes = nn.Linear(dim, prototypes, bias=False)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_from, self.freeze_prototypes = queue_from, freeze_prototypes
        self.queues = nn.ModuleList(Queue(queue_size, dim) for _ in range(self.traits.views))  # one a view
        if queue_size % world_size():
            raise ValueError(f"method.queue_size={queue_size} does not divide among {world_size()} processes")
        self._normalise()

    def prepare(self, images: int, batch_size: int) -> list[str]:
        return [queue.fit(images, batch_size) for queue in self.queues][-1]

    def objective(self, features: Tensor, targets: None, progress: float) -> Output:
        check_views(features.shape[1])
        z = unit(at_least_fp32(each_view(self.projector, features, joint=True)), dim=2)  # B,V,P
        weight = self.prototypes.weight
        if progress < self.freeze_prototypes:
            weight = weight.detach() + 0 * weight  # its gradient is there, and zero
        with torch.autocast(z.device.type, enabled=False):  # cosines over ε = .05 want float32
            scores = z @ weight.T  # B,V,K
            assignments = [self.assign(z[:, t].detach(), weight.detach(), t, progress) for t in range(self.traits.views)]
        losses = [swapped_prediction(scores[:, view], assignments[t], self.temperature) for t, view in pairs(z.shape[1])]
        staged = Staged(z.detach()[:, : self.traits.views])
        scalars = assignment_scalars(torch.stack(assignments)) if self.logs else {}
        return Output(torch.stack(losses).mean(), scalars, staged)

    def assign(self, z: Tensor, prototypes: Tensor, view: int, progress: float) -> Tensor:
        """This process's assignments of one view, balanced together with the queue's.  B,P → B,K"""
        queue, rows = self.queues[view], [z]
        if progress >= self.queue_from:
            rows.append(local_rows(queue.rows))
        return sinkhorn(torch.cat(rows) @ prototypes.T, self.epsilon, self.iterations)[: len(z)]

    def after_step(self, staged: Staged, progress: float) -> None:
        self._normalise()
        for queue, embeddings in zip(self.queues, staged.embeddings.unbind(1), strict=True):
            queue.commit(embeddings)

    @torch.no_grad()
    def _normalise(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
