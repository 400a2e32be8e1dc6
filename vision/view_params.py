"""What is random about one view of each image: where its crop lies, and the parameters of every operation."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

ATTEMPTS = 10  # crops tried before the central one is taken, as torchvision does


@dataclass(frozen=True)
class ViewParams:
    """The parameters of one view of B images. Every field is a tensor whose first dimension is B."""

    source: Tensor  # B,2 int64: the image's height and width, in pixels
    box: Tensor  # B,4 int64: top, left, height, width of the crop, in pixels of the image
    flip: Tensor  # bool
    jitter: Tensor  # bool
    order: Tensor  # B,4 int64: which operation comes first, second, …
    factors: Tensor  # B,4: brightness, contrast, saturation, hue
    grey: Tensor  # bool
    blur: Tensor  # bool
    sigma: Tensor  # pixels
    solarize: Tensor  # bool

    def map(self, function: Callable[[Any], Any]) -> ViewParams:
        """The function's result for each field."""
        return ViewParams(*(function(getattr(self, f.name)) for f in fields(self)))

    def to(self, device: torch.device) -> ViewParams:
        return self.map(lambda values: values.to(device, non_blocking=True))

    def __getitem__(self, rows: slice | Tensor) -> ViewParams:
        return self.map(lambda values: values[rows])

    def boxes(self) -> Tensor:
        """The crops' geometry.  → B,5 float32: top, left, height, width, flip.

        The first four are shares of the image's height and width, so that they do not depend on the resolution at which
        a file is decoded; flip is 1 where the view is mirrored, else 0. The shares are those before mirroring.
        """
        return torch.cat([self.box / self.source.repeat(1, 2), self.flip[:, None].float()], dim=1)


def concatenate(parts: list[ViewParams]) -> ViewParams:
    """Parameters of several groups of images, one group after the other."""
    return ViewParams(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(ViewParams)))


def crop_box(u: Tensor, source: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """RandomResizedCrop's box: the first of ten attempts that fits, else the largest central one of an allowed ratio.

    u: B,22 uniform numbers; source: B,2, height and width → B,4 int64 (top, left, height, width).
    """
    height, width = source.float().unbind(1)
    area, log_ratio = u[:, :ATTEMPTS], u[:, ATTEMPTS : 2 * ATTEMPTS]
    area = (scale[0] + area * (scale[1] - scale[0])) * (height * width)[:, None]
    aspect = torch.exp(math.log(ratio[0]) + log_ratio * (math.log(ratio[1]) - math.log(ratio[0])))
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # B,10
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]

    whole = width / height
    central_w = torch.where(whole > ratio[1], (height * ratio[1]).round(), width)
    central_h = torch.where(whole < ratio[0], (width / ratio[0]).round(), height)
    any_fits = fits.any(1)
    w, h = torch.where(any_fits, w, central_w), torch.where(any_fits, h, central_h)
    top = torch.where(any_fits, (u[:, -2] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(any_fits, (u[:, -1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()
