"""DINOv2: Oquab, Darcet, Moutakanni et al., "DINOv2: learning robust visual features without supervision", TMLR 2024,
arXiv 2304.07193, §4.

iBOT with the teacher's outputs balanced over the global batch by Sinkhorn-Knopp in place of centers (SwAV), masked patches with
a head of their own or not, and KoLeo, which spreads the class tokens of a batch evenly. `teacher_warmup` and `freeze_last` are
shares of the run. Masks are an image's own: a crop is masked with probability `masked_crops`, by a share of its patches that is
even over `mask_ratio`; the authors mask that share of a batch's crops and deal evenly spaced ratios to them.
"""
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.method import Output, at_least_fp32, check_natural, check_positive, check_share
from core.numerics import unit
from ssl.collapse import PATCH, ROWS, assignment_scalars
from ssl.losses import log_sum_exp
from ssl.masked_crops import (
    GLOBAL,
    MaskedDistillation,
    Teacher,
    check_temperatures,
    koleo_loss,
    layer_rates,
    masked_rows,
    masking,
)
from ssl.method import check_constants, check_views
from ssl.method.dino import Head
from ssl.sinkhorn import Assignments, balanced, cross_entropy, expected_prototypes


def class_loss(student: Tensor, assignments: Assignments, prototypes: Tensor, temperature: float) -> Tensor:
    """Mean over pairs of different crops of the cross-entropy between a global crop's assignment and another crop's softmax.

    student: B,V,P; assignments: of B·G rows, an image's global crops one after the other; prototypes: K,P, the student's.
    """
    B, V, P = student.shape
    check_views(V)
    expected = expected_prototypes(assignments, prototypes).view(B, -1, P)
    G = expected.shape[1]
    lse = log_sum_exp(student.flatten(0, 1), prototypes, temperature)
    times = torch.tensor([G - (v < G) for v in range(V)], device=student.device)  # pairs that a crop predicts in
    log_sum = (lse.view(B, V).sum(0) * times).sum()
    products = torch.einsum("bgp,bvp->gv", expected, student)
    scores = (products.sum() - products.diagonal().sum()) / temperature
    return (log_sum - scores) / (B * int(times.sum()))


class Heads(nn.Module):
    """DINO's head for class tokens, and for patches the same or one of their own."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int, separate: bool, unit_prototypes: bool):
        super().__init__()
        self.cls = Head(dim, hidden, bottleneck, prototypes, norm=False)
        self.own = Head(dim, hidden, bottleneck, prototypes, norm=False) if separate else None
        self.unit_prototypes = unit_prototypes
        if not unit_prototypes:
            for head in (self.cls, self.patch) if separate else (self.cls,):
                nn.init.trunc_normal_(head.prototypes, std=bottleneck**-0.5)  # a length of about 1, as if they had that

    @property
    def patch(self) -> Head:
        return self.cls if self.own is None else self.own

    def prototypes(self, head: Head, frozen: bool = False) -> Tensor:
        """K,P.  frozen: their gradient is there, and zero"""
        found = at_least_fp32(head.prototypes.detach() + 0 * head.prototypes if frozen else head.prototypes)
        return unit(found, dim=1) if self.unit_prototypes else found


@dataclass(frozen=True)
class _Side:
    """What a student's or a teacher's head makes of rows."""

    rows: Tensor  # N,P of unit length
    prototypes: Tensor  # K,P


def _side(heads: Heads, head: Head, features: Tensor, frozen: bool = False) -> _Side:
    return _Side(at_least_fp32(head.bottleneck(features)), heads.prototypes(head, frozen))


class DINOv2(MaskedDistillation):
    name = "dinov2"
    unit_prototypes = True

    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        prototypes: int,
        separate_heads: bool,
        temperature: float,
        teacher_temperature: tuple[float, float],
        teacher_warmup: float,
        iterations: int,
        momentum: tuple[float, float],
        freeze_last: float,
        mask_ratio: tuple[float, float],
        masked_crops: float,
        patch_weight: float,
        koleo: float,
        layer_decay: float,
        patch_lr: float,
    ):
        masked = masking(encoder, f"method={self.name}", mask_ratio, masked_crops)
        check_constants(temperature)
        check_share(teacher_warmup=teacher_warmup, freeze_last=freeze_last)
        check_natural(koleo=koleo, patch_weight=patch_weight)
        check_positive(iterations=iterations)
        check_temperatures(teacher_temperature)
        heads = Heads(encoder.dim, hidden, dim, prototypes, separate_heads, self.unit_prototypes)
        super().__init__(encoder, heads, masked, momentum)
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup
        self.iterations, self.freeze_last, self.patch_weight, self.koleo = iterations, freeze_last, patch_weight, koleo
        last = [f"projector.{name}" for name, _ in heads.named_parameters() if name.endswith("prototypes")]
        self.traits = dataclasses.replace(
            self.traits, frozen_until=dict.fromkeys(last, freeze_last), lr_scale=layer_rates(encoder, layer_decay, patch_lr)
        )

    def objective(self, features: tuple[Tensor, ...], targets: Teacher, progress: float) -> Output:
        cls, patches = features[:2]
        check_views(cls.shape[1])
        frozen, T, rows = progress < self.freeze_last, self.teacher_temperature_at(progress), masked_rows(targets.masked)
        ours, theirs = self.projector, self.teacher[1]
        with torch.no_grad():
            of_cls = _side(theirs, theirs.cls, targets.cls.flatten(0, 1))
            of_patches = _side(theirs, theirs.patch, targets.patches[rows.chosen])
            cls_targets = balanced(of_cls.rows, of_cls.prototypes, T, None, self.iterations)
            patch_targets = balanced(of_patches.rows, of_patches.prototypes, T, rows.counted, self.iterations)
        student, masked = _side(ours, ours.cls, cls, frozen), _side(ours, ours.patch, patches[rows.chosen], frozen)
        with torch.autocast(cls.device.type, enabled=False):
            cls_loss = class_loss(student.rows, cls_targets, student.prototypes, self.temperature)
            expected = expected_prototypes(patch_targets, masked.prototypes)
            patch_loss = rows.mean(cross_entropy(masked.rows, masked.prototypes, self.temperature, expected))
            loss = cls_loss + self.patch_weight * patch_loss
            scalars = {"cls_loss": cls_loss.detach(), "patch_loss": patch_loss.detach(),
                       "momentum": self.momentum_at(progress), "teacher_temperature": T}
            if self.logs:
                scalars |= assignment_scalars(cls_targets.of(slice(ROWS)))
                scalars |= assignment_scalars(patch_targets.of(slice(ROWS)), PATCH)
                scalars |= self.prediction_scalars(patches, targets.patches, targets.places, targets.masked)
            if self.koleo:
                spread = sum(koleo_loss(cls[:, i], self.name) for i in range(GLOBAL))
                loss, scalars["koleo"] = loss + self.koleo * spread, spread.detach() / GLOBAL
        return Output(loss, scalars)

    def teacher_temperature_at(self, progress: float) -> float:
        """A straight line over the warm-up, then its end."""
        start, end = self.teacher_temperature
        return end if progress >= self.teacher_warmup else start + (end - start) * progress / self.teacher_warmup
