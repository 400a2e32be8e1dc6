"""DINO's loss with a frozen teacher: Caron et al. 2021, "Emerging properties in self-supervised vision transformers", arXiv
2104.14294, as DINOv2 distils its small models from the largest (Oquab et al. 2023, arXiv 2304.07193, §5): the teacher does not
move, the student matches its assignment to prototypes across views.

Change: our teachers come without the head they were pretrained with, so their prototypes are fixed random directions; the
centre and the sharpening keep the assignments spread.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.distributed import mean
from core.method import check_positive, check_share, each_view, exact
from core.numerics import unit
from distill.method import Distillation
from vision.heads import mlp


class DINO(Distillation):
    per_image = True

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
        self.fresh: list[tuple[Tensor, Tensor]] = []

    def objective(self, features: Tensor, targets: tuple[Tensor, ...], progress: float) -> tuple[Tensor, dict]:
        ours, theirs = self.temperatures
        if features.shape[1] < 2:
            raise ValueError(f"augment.views={features.shape[1]}: must be 2 or more, since dino compares views of an image")
        found = (exact(each_view(self.projector, features)) / ours).log_softmax(2)  # B,V,K
        directions = unit(exact(targets[0]), dim=2)
        scores = unit(directions - self.shift.to(directions.dtype), dim=2) @ self.prototypes.to(directions.dtype).T
        told = ((scores - self.center.to(directions.dtype)) / theirs).softmax(2)
        self.fresh.append((directions.flatten(0, 1), scores.flatten(0, 1)))
        views = range(found.shape[1])
        losses = [-(told[:, a] * found[:, b]).sum(1).mean() for a in views for b in views if a != b]
        return torch.stack(losses).mean(), {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for memory, parts in zip((self.shift, self.center), zip(*self.fresh, strict=True), strict=True):
            memory.lerp_(mean(torch.cat(parts).mean(0)).to(memory.dtype), 1 - self.momentum)
        self.fresh.clear()
