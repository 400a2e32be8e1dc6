"""DINOv3: Siméoni, Vo, Seitzer et al., "DINOv3", 2025, arXiv 2508.10104, §3 and §4.

DINOv2 with a head of their own for patches, prototypes of any length, schedules that are constant after their warm-up, and two
additions. Rotary positions are stretched at random, once a step for the global crops and once for the local ones. Gram
anchoring holds the similarities between an image's patches to those that an earlier teacher had: a snapshot of the moving
average, taken at the shares `gram_at` of the run; before the first there is no such term.

The earlier teacher sees clean views where `augment.clean.size` is set (2 is the authors'): the global crops' boxes and flips
at a size of their own, without distortion; its patches are shrunk to the student's grid. `augment.high_resolution` makes all
crops larger late in the run, with Gram's `gram_weight_high`; the authors mix five sizes there, and let the learning rate
fall. Their norm of its own for local crops is left out.
"""
import contextlib
import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import counter_rng
from core.method import Batch, Output, at_least_fp32, check_natural
from core.numerics import unit
from ssl.masked_crops import GLOBAL, Teacher, at
from ssl.method.dinov2 import DINOv2
from ssl.snapshot import Snapshot
from vision import tokens
from vision.rope import has_rope, stretched

STREAM = counter_rng.MASKS + 0xFFF0  # of the counter: plus 0 for global crops, 1 for local ones


@dataclass(frozen=True)
class GramTeacher(Teacher):
    gram: Tensor  # B,G,N,D: the earlier teacher's patches; B,G,0,D before there is one


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of an image's patches.  B,G,N,D both"""
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = (unit(at_least_fp32(x), dim=-1) for x in (student, teacher))
        return (ours @ ours.mT - theirs @ theirs.mT).square().mean()


def shrunk(found: tokens.Tokens, grid: tuple[int, int]) -> Tensor:
    """Patches of a larger view at the places of a smaller grid: bicubic, without antialiasing.  B,N,D of h·w → B,h·w,D"""
    if found.grid == grid:
        return found.patches
    like = found.map.dtype
    small = F.interpolate(at_least_fp32(found.map), grid, mode="bicubic", align_corners=False)
    return small.flatten(2).mT.to(like)


class DINOv3(DINOv2):
    name = "dinov3"
    unit_prototypes = False

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
        gram_weight: float,
        gram_at: tuple[float, ...],
        rope_rescale: float,
        gram_weight_high: float = 1.5,
    ):
        super().__init__(
            encoder, hidden, dim, prototypes, separate_heads, temperature, teacher_temperature, teacher_warmup, iterations,
            momentum, freeze_last, mask_ratio, masked_crops, patch_weight, koleo, layer_decay, patch_lr,
        )
        check_natural(gram_weight=gram_weight, gram_weight_high=gram_weight_high)
        if list(gram_at) != sorted(gram_at) or not all(0 <= share <= 1 for share in gram_at):
            raise ValueError(f"method.gram_at={list(gram_at)}: must be rising shares of the run, from 0 to 1")
        if not 1 <= rope_rescale < math.inf:
            raise ValueError(f"method.rope_rescale={rope_rescale}: must be 1 (off) or more")
        self.gram_weight, self.gram_weight_high, self.rope_rescale = gram_weight, gram_weight_high, rope_rescale
        self.gram = Snapshot(encoder, gram_at if gram_weight else ())
        if self.gram.shares:
            self.traits = dataclasses.replace(self.traits, clean_from=self.gram.shares[0])

    def prepare(self, images: int, batch_size: int) -> list[str]:
        if self.rope_rescale == 1 or has_rope(self.encoder):
            return super().prepare(images, batch_size)
        return [*super().prepare(images, batch_size), f"method.rope_rescale={self.rope_rescale:g}: this encoder has no rotary "
                "positions as DINOv3's; nothing is stretched"]

    def around(self, batch: Batch, crop: int) -> contextlib.AbstractContextManager:
        """Positions stretched by a factor between 1/`rope_rescale` and `rope_rescale`, its logarithm even."""
        stream = STREAM + (crop >= GLOBAL)
        u = float(counter_rng.uniform(batch.seed, batch.step, torch.zeros(1, dtype=torch.long), stream, 1))
        return stretched(self.encoder, self.rope_rescale ** (2 * u - 1))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """→ as DINOv2, and all patches of the global crops B,G,N,D where there is a snapshot to compare with, else B,G,0,D"""
        masking = self.masking_of(batch)
        mask = masking.masks(batch)
        cls, patches = self.student(batch, mask)
        every = patches if self.gram.active else patches[:, :, :0]
        return cls, at(patches, masking.places(mask)), every

    @torch.no_grad()
    def targets(self, batch: Batch) -> GramTeacher:
        found = super().targets(batch)
        gram = found.patches[:, :, :0]
        if self.gram.active:
            grid = self.masking_of(batch).grid
            views = batch.clean or batch.views[:GLOBAL]
            gram = torch.stack([shrunk(tokens.tokens(self.gram.module, view), grid) for view in views], dim=1)
        return GramTeacher(found.cls, found.patches, found.masked, found.places, gram)

    def objective(self, features: tuple[Tensor, ...], targets: GramTeacher, progress: float) -> Output:
        output = super().objective(features, targets, progress)
        if not targets.gram.shape[2]:
            return output
        loss = gram_loss(features[2], targets.gram)
        larger = targets.gram.shape[2] > math.prod(self.masking.grid)
        weight = self.gram_weight_high if larger else self.gram_weight
        return Output(output.loss + weight * loss, {**output.scalars, "gram": loss.detach()})

    def after_step(self, staged: None, progress: float) -> None:
        super().after_step(staged, progress)
        self.gram.update(self.teacher[0], progress)
