"""iBOT: Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, "iBOT: image BERT pre-training with online tokenizer", ICLR 2022,
arXiv 2111.07832.

DINO on class tokens, and beside it the same on patches: in half of the global crops blocks of patches are replaced by a mask
token, and at those the student matches what the teacher makes of the unmasked crop. One head serves class tokens and patches;
each has a center of its own. `teacher_warmup` and `freeze_last` are shares of the run.
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Output, Record, Traits, at_least_fp32, check_share
from core.processes import total, world_size
from ssl.collapse import PATCH, ROWS, assignment_scalars
from ssl.masked_crops import GLOBAL, MaskedDistillation, at, check_temperatures, masking, stacked
from ssl.method import check_constants
from ssl.method.dino import Head, dino_loss
from vision import tokens


@dataclass(frozen=True)
class Teacher(Record):
    """What the teacher's encoder makes of the unmasked global crops, and which of their patches the student did not see."""

    cls: Tensor  # B,G,D
    patches: Tensor  # B,G,N,D
    places: Tensor  # B,G,M int64: the masked patches, then others
    masked: Tensor  # B,G,M bool: which of those are masked


@dataclass(frozen=True)
class Staged(Record):
    cls: Tensor  # pieces,K: the teacher's mean output on each piece of the batch
    patches: Tensor  # pieces,K: over all patches


def patch_loss(student: Tensor, teacher: Tensor, masked: Tensor, center: Tensor, T: float, teacher_T: float) -> Tensor:
    """Cross-entropy of masked patches, averaged over a crop's masked ones, then over all crops, those without any too (eq. 2).

    student, teacher: B,G,M,K logits; masked: B,G,M bool; center: K.
    """
    with torch.autocast(student.device.type, enabled=False):
        P = F.softmax((at_least_fp32(teacher) - center) / teacher_T, dim=-1).detach()
        entropy = -(P * F.log_softmax(at_least_fp32(student) / T, dim=-1)).sum(-1)  # B,G,M
        return ((entropy * masked).sum(2) / masked.sum(2).clamp(min=1)).mean()


class IBOT(MaskedDistillation):
    traits = Traits(views=GLOBAL, per_image=True, on_tokens=True, pooling="token")

    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        prototypes: int,
        temperature: float,
        teacher_temperature: tuple[float, float],
        teacher_warmup: float,
        momentum: tuple[float, float],
        center_momentum: float,
        freeze_last: float,
        mask_ratio: tuple[float, float],
        masked_crops: float,
        patch_weight: float,
    ):
        masked = masking(encoder, "method=ibot", mask_ratio, masked_crops)
        check_constants(temperature)
        check_share(center_momentum=center_momentum)
        check_temperatures(teacher_temperature)
        head = Head(encoder.dim, hidden, dim, prototypes, norm=False)
        super().__init__(encoder, head, replace(masked, smallest=max(1, (min(masked.grid) // 3) ** 2)), momentum)
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup
        self.center_momentum, self.freeze_last, self.patch_weight = center_momentum, freeze_last, patch_weight
        self.traits = replace(self.traits, frozen_until={"projector.prototypes": freeze_last})
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("patch_center", torch.zeros(prototypes))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Teacher:
        mask = self.masking.masks(batch)
        cls, patches = stacked([tokens.tokens(self.teacher[0], view) for view in batch.views[:GLOBAL]])
        places = self.masking.places(mask)
        return Teacher(cls, patches, places, mask.gather(2, places))

    def objective(self, features: tuple[Tensor, Tensor], targets: Teacher, progress: float) -> Output:
        cls, patches = features
        start, end = self.teacher_temperature
        T = end if progress >= self.teacher_warmup else start + (end - start) * progress / self.teacher_warmup
        with torch.no_grad():
            head = self.teacher[1]
            teacher_cls, every = head(targets.cls), head.bottleneck(targets.patches)  # B,G,K and B,G,N,P
            teacher_patches = head.logits(at(every, targets.places))  # B,G,M,K
            mean = head.logits(at_least_fp32(every).mean((0, 1, 2)))  # logits are linear in the bottleneck
        frozen = progress < self.freeze_last
        cls_loss = dino_loss(self.projector(cls, frozen), teacher_cls, self.center, self.temperature, T)
        student = self.projector(patches, frozen)
        of_patches = patch_loss(student, teacher_patches, targets.masked, self.patch_center, self.temperature, T)
        scalars = {"cls_loss": cls_loss.detach(), "patch_loss": of_patches.detach(),
                   "momentum": self.momentum_at(progress), "teacher_temperature": T}
        if self.logs:
            scalars |= assignment_scalars(F.softmax((at_least_fp32(teacher_cls) - self.center) / T, dim=-1))
            some = at_least_fp32(teacher_patches.flatten(0, 2)[:ROWS])
            scalars |= assignment_scalars(F.softmax((some - self.patch_center) / T, dim=-1), PATCH)
            scalars |= self.prediction_scalars(patches, at(targets.patches, targets.places), targets.places, targets.masked)
        staged = Staged(at_least_fp32(teacher_cls).mean((0, 1))[None], at_least_fp32(mean)[None])
        return Output(cls_loss + self.patch_weight * of_patches, scalars, staged)

    @torch.no_grad()
    def after_step(self, staged: Staged, progress: float) -> None:
        super().after_step(None, progress)
        for center, outputs in ((self.center, staged.cls), (self.patch_center, staged.patches)):
            mean = total(outputs.mean(0)) / world_size()
            center.lerp_(mean.to(center.dtype), 1 - self.center_momentum)
