"""All4One: Estepa, Sarasúa, Nagarajan, Bagher-Mousavi, "All4One: symbiotic neighbour contrastive learning via
self-attention and redundancy reduction", ICCV 2023, arXiv 2303.09417.

Three objectives on one network: NNCLR with neighbours of a teacher's embeddings; a contrast of "centroids", what a small
transformer makes of the k nearest neighbours, where the other view's prediction takes the first place and shifts the
rest; and a correlation of the student's and the teacher's dimensions pulled to the identity. Weights, temperatures and
the transformer's learning rate, a tenth of the others', are those of the authors' code (solo-learn).

Changes: the transformer has no dropout, so that a run does not depend on the number of processes, and its k places are
distinguished by sines and cosines of the place.
"""
import math

import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Batch, Method, Output, Traits, at_least_fp32, each_view, ema_copy, ema_update_, features_of
from core.numerics import safe_sqrt, unit
from core.processes import total
from core.schedule import cosine
from ssl.losses import nearest
from ssl.method import TeacherFeatures, check_constants, pairs
from ssl.method.nnclr import Staged, nnclr_loss
from vision.heads import mlp

HEADS, LAYERS = 8, 3
CENTROID_TEMPERATURE = 0.1
FEATURE_WEIGHT = 10.0


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """½·√(mean_i (1 − C_ii)²) + ½·√(mean_{i≠j} C_ij²) over both pairs of views, global batch.

    student, teacher: B,2,P; C: inner products of columns of unit length, one view's teacher with the other's student.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (x / total(x.square().sum(0)).clamp(min=1e-24).sqrt() for x in (at_least_fp32(student), at_least_fp32(teacher)))
        C = total(torch.stack([t[:, 0].T @ s[:, 1], t[:, 1].T @ s[:, 0]]))  # 2,P,P
        P, diagonal = C.shape[1], C.diagonal(dim1=1, dim2=2)
        on = (1 - diagonal).square().mean()
        off = (C.square().sum() - diagonal.square().sum()) / max(2 * P * (P - 1), 1)
        return (safe_sqrt(on) + safe_sqrt(off)) / 2


class Centroid(nn.Module):
    """k embeddings → one: a transformer's output in the first place.  B,k,P → B,P"""

    def __init__(self, dim: int, k: int):
        super().__init__()
        if dim % HEADS:
            raise ValueError(f"method.dim={dim}: must be a multiple of {HEADS}, the transformer's heads")
        layer = nn.TransformerEncoderLayer(dim, HEADS, 2 * dim, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        angle = torch.arange(k)[:, None] * torch.exp(-math.log(10000.0) * torch.arange(0, dim, 2) / dim)
        self.register_buffer("places", torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1))  # k,P

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.transformer(embeddings + self.places)[:, 0]


class All4One(Method):
    traits = Traits(lr_scale={"centroid": 0.1})

    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        predictor_hidden: int,
        temperature: float,
        queue_size: int,
        neighbours: int,
        momentum: tuple[float, float],
    ):
        super().__init__()
        check_constants(temperature, momentum)
        if not 2 <= neighbours <= queue_size:
            raise ValueError(f"method.neighbours={neighbours}: must be from 2 to queue_size={queue_size}")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, hidden, dim], last_norm="affine")
        self.predictor = mlp([dim, predictor_hidden, dim])
        self.centroid_predictor = mlp([dim, predictor_hidden, dim])
        self.centroid = Centroid(dim, neighbours)
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector))
        self.queue = Queue(queue_size, dim)
        self.temperature, self.neighbours, self.momentum = temperature, neighbours, tuple(momentum)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        notes = self.queue.fit(images, batch_size)
        if len(self.queue) < self.neighbours:
            raise ValueError(f"method.neighbours={self.neighbours}: the queue holds {len(self.queue)}; use a larger batch_size")
        return notes

    @torch.no_grad()
    def targets(self, batch: Batch) -> TeacherFeatures:
        return TeacherFeatures(features_of(self.teacher[0], batch.views[: self.traits.views]))

    def objective(self, features: Tensor, targets: TeacherFeatures, progress: float) -> Output:
        with torch.no_grad():
            teacher = unit(at_least_fp32(each_view(self.teacher[1], targets.features)), dim=2)  # B,2,P
        z = each_view(self.projector, features)  # B,V,P
        p = each_view(self.predictor, z)
        shifting = at_least_fp32(each_view(self.centroid_predictor, z))
        near = [nearest(teacher[:, t], self.queue.rows, self.neighbours) for t in range(self.traits.views)]  # B,k,P each

        centroids = [self.centroid(n) for n in near]
        contrasts, centred = [], []
        for t, view in pairs(z.shape[1]):
            shifted = torch.cat([shifting[:, view, None], near[1 - t][:, :-1]], dim=1)  # B,k,P
            centred.append(nnclr_loss(centroids[t], self.centroid(shifted), CENTROID_TEMPERATURE))
            contrasts.append(nnclr_loss(near[t][:, 0], p[:, view], self.temperature))
        parts = {
            "centroid": torch.stack(centred).mean(),
            "neighbour": torch.stack(contrasts).mean(),
            "feature": FEATURE_WEIGHT * feature_loss(z[:, : self.traits.views], teacher),
        }
        scalars = {name: part.detach() for name, part in parts.items()}
        scalars |= {"momentum": cosine(progress, *self.momentum)}
        return Output(sum(parts.values()) / 2, scalars, Staged(teacher[:, 0]))

    def after_step(self, staged: Staged, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
        self.queue.commit(staged.embeddings)
