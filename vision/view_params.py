"""What is random about one view of each image: where its crop lies, and the parameters of every operation."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
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
        return type(self)(*(function(getattr(self, f.name)) for f in fields(self)))

    def to(self, device: torch.device) -> ViewParams:
        return self.map(lambda values: values.to(device, non_blocking=True))

    def __getitem__(self, rows: slice | Tensor) -> ViewParams:
        return self.map(lambda values: values[rows])

    @property
    def widths(self) -> tuple[type, list[tuple[int, ...]]]:
        """What views must share to be rendered at once: the kind, and each field's shape but for its rows."""
        return type(self), [tuple(getattr(self, f.name).shape[1:]) for f in fields(self)]

    def clean(self) -> ViewParams:
        """The same crop and flip without distortion."""
        off = torch.zeros_like(self.flip)
        return replace(self, jitter=off, grey=off, blur=off, solarize=off)

    def boxes(self) -> Tensor:
        """The crops' geometry.  → B,5 float32: top, left, height, width, flip.

        The first four are shares of the image's height and width, so that they do not depend on the resolution at which
        a file is decoded; flip is 1 where the view is mirrored, else 0. The shares are those before mirroring.

        They describe the crop alone, which is cut first. What turns the crop afterwards (`ExtendedParams`: vertical flip,
        quarter turns, rotation, a policy's shears and shifts) does not change these five numbers: the view shows the same part
        of the image, with another side up, and a rotation or shear leaves some of it outside and black corners inside. What
        compares places of two views by their boxes must apply `vflip`, `turns`, `angle` and `ops` itself, or do without them.
        """
        return torch.cat([self.box / self.source.repeat(1, 2), self.flip[:, None].float()], dim=1)


@dataclass(frozen=True)
class ExtendedParams(ViewParams):
    """`ViewParams`, and the parameters of the operations that are off by default, in the order in which they are applied:
    the first four after the crop and its flip, the others after solarization.

    A tensor of width 0 stands for an operation that no image of the view has.
    """

    vflip: Tensor  # bool: upside down
    turns: Tensor  # int64: quarter turns, counterclockwise, after the flips
    angle: Tensor  # B,0 or 1: rotation about the center, degrees counterclockwise
    ops: Tensor  # B,n int64: operations of a policy (vision/policy.py), one after the other
    magnitudes: Tensor  # B,n: theirs
    gain: Tensor  # B,0 or 32: each channel's factor
    offset: Tensor  # B,0 or 32: what is added to each channel, in shares of the range
    gamma: Tensor  # B,0 or 1: exponent
    noise: Tensor  # B,0 or 1: standard deviation of Gaussian noise, in shares of the range
    noise_key: Tensor  # B,0 or 2 int64: the key of the counter-based generator of the image's noise
    drop_margin: Tensor  # B,0 or 32: channels below 0 are 0 after normalization; where all are, the largest stays

    def clean(self) -> ViewParams:
        """The same crop, flips, turns and rotation without distortion."""
        return extend(super().clean(), vflip=self.vflip, turns=self.turns, angle=self.angle)


def extend(params: ViewParams, **changes: Tensor) -> ExtendedParams:
    """With the further operations, all of them off but for `changes`."""
    B, device = len(params.flip), params.flip.device
    none, no_integers = torch.zeros(B, 0, device=device), torch.zeros(B, 0, dtype=torch.int64, device=device)
    off = {
        "vflip": torch.zeros(B, dtype=torch.bool, device=device),
        "turns": torch.zeros(B, dtype=torch.int64, device=device),
        "angle": none, "ops": no_integers, "magnitudes": none, "gain": none, "offset": none, "gamma": none, "noise": none,
        "noise_key": no_integers, "drop_margin": none,
    }  # fmt: skip
    return ExtendedParams(**{f.name: getattr(params, f.name) for f in fields(ViewParams)}, **(off | changes))


def concatenate(parts: list[ViewParams]) -> ViewParams:
    """Parameters of several groups of images, one group after the other."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(kind)))


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
