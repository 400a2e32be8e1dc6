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

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, check_share, ema_copy, ema_update_
from core.processes import total, world_size
from core.schedule import cosine
from ssl.collapse import assignment_scalars
from ssl.method import check_constants
from ssl.method.dino import Head, dino_loss
from vision import masks, tokens

GLOBAL = 2


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


class IBOT(Method):
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
        super().__init__()
        tokens.check(encoder, "method=ibot", "fill")
        check_constants(temperature, momentum)
        check_share(center_momentum=center_momentum, masked_crops=masked_crops)
        if len(teacher_temperature) != 2 or not all(T > 0 for T in teacher_temperature):
            raise ValueError(f"method.teacher_temperature={list(teacher_temperature)}: must be [start,end], both more than 0")
        if len(mask_ratio) != 2 or not 0 < mask_ratio[0] <= mask_ratio[1] < 1:
            raise ValueError(f"method.mask_ratio={list(mask_ratio)}: must be [smallest,largest], between 0 and 1")
        self.grid = h, w = tokens.grid(encoder, encoder.spec.image_size)
        self.places = int(h * w * mask_ratio[1])
        if self.places < 1:
            raise ValueError(f"method.mask_ratio={list(mask_ratio)}: masks none of an image's {h * w} patches; use an encoder "
                             "of smaller patches, such as vit_tiny_patch4")
        self.traits = replace(self.traits, frozen_until={"projector.prototypes": freeze_last})
        self.encoder = encoder
        self.projector = Head(encoder.dim, hidden, dim, prototypes, norm=False)
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector)).eval()
        self.mask_token = nn.Parameter(torch.zeros(encoder.num_features))
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup
        self.momentum, self.center_momentum, self.freeze_last = tuple(momentum), center_momentum, freeze_last
        self.mask_ratio, self.masked_crops, self.patch_weight = tuple(mask_ratio), masked_crops, patch_weight
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("patch_center", torch.zeros(prototypes))

    def train(self, mode: bool = True) -> "IBOT":
        super().train(mode)
        self.teacher.eval()  # no drop path in targets
        return self

    def masks(self, batch: Batch) -> Tensor:
        """Of the global crops.  → B,G,N bool

        A crop is masked with probability `masked_crops`, then a share of its patches that is even over `mask_ratio`, in
        blocks of (a third of the shorter side)² patches and more.
        """
        (h, w), indices = self.grid, batch.indices.to(batch.views[0].device)
        found, (low, high) = [], self.mask_ratio
        for crop in range(GLOBAL):
            words = masks.words(batch.seed, batch.epoch, indices, crop, 2 + masks.words_needed(h * w))
            u = (words[:, :2] >> 8).double() * 2.0**-24
            share = torch.where(u[:, 0] < self.masked_crops, low + u[:, 1] * (high - low), 0.0)
            smallest = max(1, (min(h, w) // 3) ** 2)
            found.append(masks.block(words[:, 2:], self.grid, (share * h * w).long(), smallest))
        return torch.stack(found, dim=1)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """→ class tokens of all crops B,V,D, and patches at the masked places of the global ones B,G,M,D"""
        mask = self.masks(batch)
        crops = [
            tokens.tokens(self.encoder, view, mask=mask[:, i], fill=self.mask_token)
            if i < GLOBAL else tokens.tokens(self.encoder, view)
            for i, view in enumerate(batch.views)
        ]
        cls = torch.stack([found.prefix[:, 0] for found in crops], dim=1)
        patches = [
            _at(found.patches, masks.places(mask[:, i], self.places)) for i, found in enumerate(crops[:GLOBAL])
        ]
        return cls, torch.stack(patches, dim=1)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Teacher:
        mask = self.masks(batch)
        crops = [tokens.tokens(self.teacher[0], view) for view in batch.views[:GLOBAL]]
        places = torch.stack([masks.places(one, self.places) for one in mask.unbind(1)], dim=1)
        cls, patches = (torch.stack(x, dim=1) for x in ([c.prefix[:, 0] for c in crops], [c.patches for c in crops]))
        return Teacher(cls, patches, places, mask.gather(2, places))

    def objective(self, features: tuple[Tensor, Tensor], targets: Teacher, progress: float) -> Output:
        cls, patches = features
        start, end = self.teacher_temperature
        T = end if progress >= self.teacher_warmup else start + (end - start) * progress / self.teacher_warmup
        with torch.no_grad():
            head = self.teacher[1]
            teacher_cls, every = head(targets.cls), head.bottleneck(targets.patches)  # B,G,K and B,G,N,P
            at = targets.places[..., None].expand(-1, -1, -1, every.shape[3])
            teacher_patches = head.logits(every.gather(2, at))  # B,G,M,K
            mean = head.logits(at_least_fp32(every).mean((0, 1, 2)))  # logits are linear in the bottleneck
        frozen = progress < self.freeze_last
        cls_loss = dino_loss(self.projector(cls, frozen), teacher_cls, self.center, self.temperature, T)
        student = self.projector(patches, frozen)
        of_patches = patch_loss(student, teacher_patches, targets.masked, self.patch_center, self.temperature, T)
        scalars = {"cls_loss": cls_loss.detach(), "patch_loss": of_patches.detach(),
                   "momentum": cosine(progress, *self.momentum), "teacher_temperature": T}
        scalars |= assignment_scalars(F.softmax((at_least_fp32(teacher_cls) - self.center) / T, dim=-1))
        staged = Staged(at_least_fp32(teacher_cls).mean((0, 1))[None], at_least_fp32(mean)[None])
        return Output(cls_loss + self.patch_weight * of_patches, scalars, staged)

    @torch.no_grad()
    def after_step(self, staged: Staged, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
        for center, outputs in ((self.center, staged.cls), (self.patch_center, staged.patches)):
            mean = total(outputs.mean(0)) / world_size()
            center.lerp_(mean.to(center.dtype), 1 - self.center_momentum)


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """B,N,D and B,M int64 → B,M,D"""
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))
