"""DINO's loss with a frozen teacher: Caron et al. 2021, "Emerging properties in self-supervised vision transformers", arXiv
2104.14294, as DINOv2 distils its small models from the largest (Oquab et al. 2023, arXiv 2304.07193, §5): the teacher does not
move, the student matches its assignment to prototypes across views.

Change: our teachers come without the head they were pretrained with, so their prototypes are fixed random directions; the
centre and the sharpening keep the assignments spread.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Output, Record, Traits, at_least_fp32, check_positive, check_share, each_view
from core.numerics import unit
from core.processes import mean
from distill.method import Distillation, Targets
from vision.heads import mlp


@dataclass(frozen=True)
class Staged(Record):
    directions: Tensor  # B,V,E: the teacher's features at length 1
    scores: Tensor  # B,V,K: of its prototypes


class DINO(Distillation):
    traits = Traits(per_image=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, hidden: int, prototypes: int, temperature: float,
        teachers_temperature: float, center_momentum: float,
    ):
        super().__init__(encoder, teacher)
        check_positive(temperature=temperature, teachers_temperature=teachers_temperature)
        check_share(center_momentum=center_momentum)
        self.projector = mlp([encoder.dim, hidden, prototypes])
        self.register_buffer("prototypes", F.normalize(torch.randn(prototypes, teacher.dim), dim=1))
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("shift", torch.zeros(teacher.dim))  # running mean of the teacher's unit features
        self.temperatures, self.momentum = (temperature, teachers_temperature), center_momentum

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        ours, theirs = self.temperatures
        if features.shape[1] < 2:
            raise ValueError(f"augment.views={features.shape[1]}: must be 2 or more, since dino compares views of an image")
        log_p = (at_least_fp32(each_view(self.projector, features)) / ours).log_softmax(2)  # B,V,K
        directions = unit(at_least_fp32(targets.features), dim=2)
        scores = unit(directions - self.shift.to(directions.dtype), dim=2) @ self.prototypes.to(directions.dtype).T
        p = ((scores - self.center.to(directions.dtype)) / theirs).softmax(2)
        views = range(log_p.shape[1])
        losses = [-(p[:, a] * log_p[:, b]).sum(1).mean() for a in views for b in views if a != b]
        return Output(torch.stack(losses).mean(), staged=Staged(directions, scores))

    @torch.no_grad()
    def after_step(self, staged: Staged, progress: float) -> None:
        for memory, rows in ((self.shift, staged.directions), (self.center, staged.scores)):
            memory.lerp_(mean(rows.flatten(0, 1).mean(0)).to(memory.dtype), 1 - self.momentum)
