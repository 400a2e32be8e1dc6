"""DINO: Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, "Emerging properties in self-supervised vision
transformers", ICCV 2021, arXiv 2104.14294, algorithm 1.

Self-distillation with no labels: the student matches the softmax that a moving average of it makes of another view,
sharpened by a low temperature and centred by the mean of earlier outputs. Centre and teacher move in `after_step`.
`teacher_warmup` and `freeze_last` are shares of the run.
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import (
    Batch,
    Method,
    Output,
    Record,
    Traits,
    at_least_fp32,
    check_share,
    each_view,
    ema_copy,
    ema_update_,
    features_of,
)
from core.numerics import unit
from core.processes import total, world_size
from core.schedule import cosine
from ssl.collapse import assignment_scalars
from ssl.method import TeacherFeatures, check_constants, check_views
from vision.heads import mlp


def dino_loss(student: Tensor, teacher: Tensor, centre: Tensor, temperature: float, teacher_temperature: float) -> Tensor:
    """Mean over pairs of different views of −Σ_k P_t log P_s (the paper's eq. 3 sums them).

    student: B,V,K logits of all views; teacher: B,T,K logits of the first T, no gradient; centre: K. Raises ValueError for one
    view, which has no other to be compared with.
    """
    check_views(student.shape[1])
    with torch.autocast(student.device.type, enabled=False):
        P_teacher = F.softmax((at_least_fp32(teacher) - centre) / teacher_temperature, dim=2).detach()
        log_P = F.log_softmax(at_least_fp32(student) / temperature, dim=2)
        products = torch.einsum("btk,bvk->tv", P_teacher, log_P) / len(student)  # one matrix product, not one a pair
    T, V = products.shape
    return -(products.sum() - products.diagonal().sum()) / (T * V - min(T, V))


@dataclass(frozen=True)
class Staged(Record):
    outputs: Tensor  # pieces,K: the teacher's mean output on each piece of the batch


class Head(nn.Module):
    """Three layers of GELU, a bottleneck of unit length, and prototypes of unit length (appendix C)."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int, norm: bool):
        super().__init__()
        self.mlp = mlp([dim, hidden, hidden, bottleneck], hidden_norm=norm, activation=nn.GELU)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in (m for m in self.mlp if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """B,D → B,K logits.  frozen: the prototypes' gradient is there, and zero."""
        return self.logits(self.bottleneck(features), frozen)

    def bottleneck(self, features: Tensor) -> Tensor:
        """…,D → …,P of unit length, what prototypes are compared with"""
        return unit(self.mlp(features), dim=-1)

    def logits(self, bottleneck: Tensor, frozen: bool = False) -> Tensor:
        """…,P → …,K"""
        prototypes = self.prototypes.detach() + 0 * self.prototypes if frozen else self.prototypes
        return bottleneck @ unit(prototypes, dim=1).T


class DINO(Method):
    traits = Traits(joint_views=True, per_image=True)

    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        prototypes: int,
        norm: bool,
        temperature: float,
        teacher_temperature: tuple[float, float],
        teacher_warmup: float,
        momentum: tuple[float, float],
        centre_momentum: float,
        freeze_last: float,
    ):
        super().__init__()
        check_constants(temperature, momentum)
        if len(teacher_temperature) != 2 or not all(T > 0 for T in teacher_temperature):
            raise ValueError(f"method.teacher_temperature={list(teacher_temperature)}: must be [start,end], both more than 0")
        check_share(centre_momentum=centre_momentum)
        self.traits = replace(self.traits, frozen_until={"projector.prototypes": freeze_last})
        self.encoder = encoder
        self.projector = Head(encoder.dim, hidden, dim, prototypes, norm)
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector))
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup
        self.momentum, self.centre_momentum, self.freeze_last = tuple(momentum), centre_momentum, freeze_last
        self.register_buffer("centre", torch.zeros(prototypes))

    @torch.no_grad()
    def targets(self, batch: Batch) -> TeacherFeatures:
        return TeacherFeatures(features_of(self.teacher[0], batch.views[: self.traits.views], self.traits.joint_views))

    def objective(self, features: Tensor, targets: TeacherFeatures, progress: float) -> Output:
        with torch.no_grad():
            teacher = each_view(self.teacher[1], targets.features, joint=True)  # B,2,K
        head = lambda h: self.projector(h, progress < self.freeze_last)  # noqa: E731
        student = each_view(head, features, joint=True)  # B,V,K
        start, end = self.teacher_temperature
        T = end if progress >= self.teacher_warmup else start + (end - start) * progress / self.teacher_warmup
        loss = dino_loss(student, teacher, self.centre, self.temperature, T)
        scalars = {"momentum": cosine(progress, *self.momentum), "teacher_temperature": T}
        if self.logs:
            scalars |= assignment_scalars(F.softmax((at_least_fp32(teacher) - self.centre) / T, dim=2))
        return Output(loss, scalars, Staged(at_least_fp32(teacher).mean((0, 1))[None]))

    @torch.no_grad()
    def after_step(self, staged: Staged, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
        mean = total(staged.outputs.mean(0)) / world_size()
        self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.centre_momentum)  # eq. 4
