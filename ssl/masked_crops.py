"""What DINOv2 and its successors share: two global crops, of which the student does not see all patches, and a teacher."""
import contextlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.method import Batch, Method, Record, Traits, check_natural, check_positive, check_share, ema_copy, ema_update_
from core.numerics import safe_sqrt, unit
from core.processes import gather, rank
from core.schedule import cosine
from ssl.collapse import prediction_scalars
from ssl.losses import row_tiles
from ssl.method import check_constants, check_images
from vision import masks, tokens
from vision.layers import rates

GLOBAL = 2
EPS = 1e-8  # of KoLeo's logarithm, as in DINOv2's code


@dataclass(frozen=True)
class Teacher(Record):
    """What a teacher's encoder makes of the unmasked global crops."""

    cls: Tensor  # B,G,D
    patches: Tensor  # B,G,M,D, at the places that the student's mask may have
    masked: Tensor  # B,G,M bool: which of those the student does not see
    places: Tensor  # B,G,M int64


@dataclass(frozen=True)
class Masking:
    """How patches of the global crops are masked; `grid` is theirs."""

    grid: tuple[int, int]
    ratio: tuple[float, float]  # share of a masked crop's patches, drawn evenly
    crops: float  # probability that a crop is masked
    smallest: int = 4  # patches of a block

    @property
    def most(self) -> int:
        """Masked patches of a crop."""
        return int(self.grid[0] * self.grid[1] * self.ratio[1])

    def masks(self, batch: Batch) -> Tensor:
        """Each crop's own, from the image's random numbers.  → B,G,N bool"""
        (h, w), indices = self.grid, batch.indices.to(batch.views[0].device)
        found, (low, high) = [], self.ratio
        for crop in range(GLOBAL):
            words = masks.words(batch.seed, batch.epoch, indices, crop, 2 + masks.words_needed(h * w))
            u = (words[:, :2] >> 8).double() * 2.0**-24
            share = torch.where(u[:, 0] < self.crops, low + u[:, 1] * (high - low), 0.0)
            found.append(masks.block(words[:, 2:], self.grid, (share * h * w).long(), self.smallest))
        return torch.stack(found, dim=1)

    def places(self, mask: Tensor) -> Tensor:
        """B,G,N bool → B,G,M int64: the masked patches, then others"""
        return torch.stack([masks.places(one, self.most) for one in mask.unbind(1)], dim=1)


def masking(encoder: nn.Module, what: str, ratio: tuple[float, float], crops: float) -> Masking:
    """For an encoder's images.  what: who needs it, such as method=dinov2

    Raises ValueError where the encoder takes no mask token, `ratio` is no range of shares, or masks nothing.
    """
    tokens.check(encoder, what, "fill")
    check_share(masked_crops=crops)
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < 1:
        raise ValueError(f"method.mask_ratio={list(ratio)}: must be [smallest,largest], between 0 and 1")
    found = Masking(tokens.grid(encoder, encoder.spec.image_size), tuple(ratio), crops)
    if found.most < 1:
        raise ValueError(f"method.mask_ratio={list(ratio)}: masks none of an image's {found.grid[0] * found.grid[1]} patches; "
                         "use an encoder of smaller patches, such as vit_tiny_patch4")
    return found


def check_temperatures(teacher_temperature: tuple[float, float]) -> None:
    """Raises ValueError where they are not two positive numbers."""
    if len(teacher_temperature) != 2 or not all(T > 0 for T in teacher_temperature):
        raise ValueError(f"method.teacher_temperature={list(teacher_temperature)}: must be [start,end], both more than 0")


class MaskedDistillation(Method):
    """A student that does not see all patches, and a moving average of it that does. `projector` is made of heads."""

    traits = Traits(views=GLOBAL, on_tokens=True, resizable=True, pooling="token")

    def __init__(self, encoder: nn.Module, projector: nn.Module, masking: Masking, momentum: tuple[float, float]):
        """momentum: of the teacher, from the start of the run to its end, along a cosine"""
        super().__init__()
        check_constants(momentum=momentum)
        self.encoder, self.projector, self.masking, self.momentum = encoder, projector, masking, tuple(momentum)
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector)).eval()
        self.mask_token = nn.Parameter(torch.zeros(encoder.num_features))

    def train(self, mode: bool = True) -> "MaskedDistillation":
        super().train(mode)
        self.teacher.eval()  # no drop path in targets
        return self

    def masking_of(self, batch: Batch) -> Masking:
        """That of the batch's global crops, which may be larger late in a run."""
        height, width = batch.views[0].shape[2:]
        return replace(self.masking, grid=tokens.grid(self.encoder, (height, width)))

    def around(self, batch: Batch, crop: int) -> contextlib.AbstractContextManager:
        """In what the student sees a crop."""
        return contextlib.nullcontext()

    def student(self, batch: Batch, mask: Tensor) -> tuple[Tensor, Tensor]:
        """→ class tokens of all crops, the global ones masked, B,V,D; and all patches of the global ones B,G,N,D"""
        found = []
        for i, view in enumerate(batch.views):
            masked = {"mask": mask[:, i], "fill": self.mask_token} if i < GLOBAL else {}
            with self.around(batch, i):
                found.append(tokens.tokens(self.encoder, view, **masked))
        return stacked(found)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """→ class tokens of all crops B,V,D, and patches at the places where the global ones may be masked B,G,M,D"""
        masking = self.masking_of(batch)
        mask = masking.masks(batch)
        cls, patches = self.student(batch, mask)
        return cls, at(patches, masking.places(mask))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Teacher:
        masking = self.masking_of(batch)
        mask = masking.masks(batch)
        places = masking.places(mask)
        cls, patches = stacked([tokens.tokens(self.teacher[0], view) for view in batch.views[:GLOBAL]])
        return Teacher(cls, at(patches, places), mask.gather(2, places), places)

    def prediction_scalars(self, student: Tensor, teacher: Tensor, places: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """`ssl.collapse`'s, of features at masked patches.  student, teacher: B,G,M,D; places, masked: B,G,M. Collective."""
        N = math.ceil((places.shape[2] + 1) / self.masking.ratio[1])  # at least as many as an image of this batch has
        return prediction_scalars(student, teacher, places, N, masked)

    def momentum_at(self, progress: float) -> float:
        return cosine(progress, *self.momentum)

    @torch.no_grad()
    def after_step(self, staged: None, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), self.momentum_at(progress))


def stacked(found: list[tokens.Tokens]) -> tuple[Tensor, Tensor]:
    """Of all crops → class tokens B,V,D, and patches of the global ones B,G,N,D"""
    return torch.stack([one.prefix[:, 0] for one in found], 1), torch.stack([one.patches for one in found[:GLOBAL]], 1)


def at(rows: Tensor, places: Tensor) -> Tensor:
    """B,G,N,D and B,G,M int64 → B,G,M,D"""
    return rows.gather(2, places[..., None].expand(-1, -1, -1, rows.shape[3]))


@dataclass(frozen=True)
class MaskedRows:
    """The masked patches of a batch, one after the other: n of B·G·M. Where there is none, one of weight 0."""

    chosen: Tensor  # B,G,M bool
    counted: Tensor  # n bool: is it masked?
    weights: Tensor  # n: of a mean over each crop's masked patches, then over all crops, those without any too

    def mean(self, values: Tensor) -> Tensor:
        """n → the weighted mean"""
        return (values * self.weights).sum()


def masked_rows(masked: Tensor) -> MaskedRows:
    """masked: B,G,M bool"""
    weights = masked / masked.sum(2, keepdim=True).clamp(min=1) / (masked.shape[0] * masked.shape[1])
    chosen = masked
    if not masked.any():  # heads must be used on every process
        chosen = masked.clone()
        chosen.view(-1)[0] = True
    return MaskedRows(chosen, masked[chosen], weights[chosen])


def koleo_loss(z: Tensor, method: str) -> Tensor:
    """−mean_i log(‖z_i − z_nn(i)‖ + 1e-8) of unit vectors, nn(i) the nearest other image of the global batch.

    The Kozachenko-Leonenko estimator of Sablayrolles et al. 2019 (arXiv 1806.03198), which spreads features evenly; of
    one view at a time, so that the same image is no neighbor of itself. Copies have a distance of 0 and no gradient.
    z: B,D of any length.  method: whose it is, for the error.  Raises ValueError for one image.
    """
    check_images(method, len(z), 2, "KoLeo compares an image with another; or set method.koleo=0")
    with torch.autocast(z.device.type, enabled=False):
        z = unit(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
        everywhere = gather(z)  # W·B,D
        with torch.no_grad():
            nearest = []
            for rows in row_tiles(len(z), len(everywhere)):
                similar = z[rows] @ everywhere.T
                own = torch.arange(rows.start, rows.stop, device=z.device) + rank() * len(z)
                nearest.append(similar.scatter_(1, own[:, None], -torch.inf).argmax(1))
        distance = safe_sqrt((z - everywhere[torch.cat(nearest)]).square().sum(1))
        return -(distance + EPS).log().mean()


def layer_rates(encoder: nn.Module, decay: float, stem: float) -> dict[str, float]:
    """Traits' `lr_scale`: decay^(L + 1 − i) in layer i of L; the mask token is in layer 0, as the patch embedding, which
    has `stem` times that. Empty where all have the whole rate.
    """
    check_positive(layer_decay=decay)
    check_natural(patch_lr=stem)
    if decay == stem == 1:
        return {}
    shares = rates(encoder, decay, stem)
    lowest = min(rates(encoder, decay).values()) if decay < 1 else 1.0
    return {f"encoder.{name}": share for name, share in shares.items()} | {"mask_token": lowest}
