"""RandAugment and TrivialAugment: for each image a few of fourteen operations, drawn at random.

RandAugment (Cubuk et al. 2020, arXiv 1909.13719) draws n operations, all of one magnitude; TrivialAugment (Müller and Hutter
2021, arXiv 2103.10158, the "wide" space) one operation of a random magnitude. Spaces and magnitudes are torchvision's
(RandAugment, TrivialAugmentWide, 31 bins), and each operation is its functional one on float tensors. Geometric ones are
bilinear, which torchvision offers, where its default is the nearest pixel; what comes in from outside is black in both.
"""
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from core.image_size import Size, sides
from vision.pixels import luma, per_image, where_
from vision.warp import identity, rotation, warp

NONE, RANDAUGMENT, TRIVIALAUGMENT = POLICIES = ("none", "randaugment", "trivialaugment")
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
(IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTEN, COLOR, CONTRAST, SHARPEN,
 POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE) = range(len(OPERATIONS))  # fmt: skip
FIRST_WARP, LAST_WARP, FIRST_BLEND, LAST_BLEND = SHEAR_X, ROTATE, BRIGHTEN, SHARPEN
BINS = 31  # of magnitudes: 0 … 30
MOST = 16  # operations an image
TO_BYTE = 255.999  # torchvision's factor from [0, 1] to a level, which is then rounded down


@dataclass(frozen=True)
class Space:
    """The largest magnitudes of a policy; of translation in pixels, or as a share of the side."""

    shear: float
    rotate: float  # degrees
    blend: float  # brightness, color, contrast, sharpness: the factor is 1 ± that
    bits: int  # that posterization takes away at most
    pixels: float = 0.0
    share: float = 0.0


SPACES = {
    RANDAUGMENT: Space(shear=0.3, rotate=30.0, blend=0.9, bits=4, share=150.0 / 331.0),
    TRIVIALAUGMENT: Space(shear=0.99, rotate=135.0, blend=0.99, bits=6, pixels=32.0),
}


@cache
def magnitude_table(policy: str, size: Size) -> Tensor:
    """What torchvision gives the functional operation, before its sign: one row an operation.  size: of the view → 14,31"""
    space = SPACES[policy]

    def up_to(most: float) -> Tensor:
        return torch.linspace(0.0, most, BINS)

    none, (down, across) = torch.zeros(BINS), (up_to(space.share * side + space.pixels).trunc() for side in sides(size))
    bits = (8 - torch.arange(BINS) / ((BINS - 1) / space.bits)).round()
    rows = [none, *[up_to(space.shear)] * 2, across, down, up_to(space.rotate), *[up_to(space.blend)] * 4, bits,
            torch.linspace(1.0, 0.0, BINS), none, none]  # fmt: skip
    return torch.stack(rows)


def sample(u: Tensor, policy: str, magnitude: int, size: Size) -> tuple[Tensor, Tensor]:
    """Operations and magnitudes.  u: B,n,3 uniform numbers → B,n int64, B,n float32

    magnitude: RandAugment's bin; TrivialAugment draws its own.
    """
    ops = (u[..., 0] * len(OPERATIONS)).long()
    bins = torch.full_like(ops, magnitude) if policy == RANDAUGMENT else (u[..., 1] * BINS).long()
    values = magnitude_table(policy, size).to(u.device)[ops, bins]
    signed = (ops >= FIRST_WARP) & (ops <= LAST_BLEND)
    return ops, torch.where(signed & (u[..., 2] <= 0.5), -values, values)


def apply(x: Tensor, ops: Tensor, magnitudes: Tensor) -> Tensor:
    """One operation after the other.  x: B,C,h,w in [0, 1], C 1 or 3; ops, magnitudes: B,n → the same"""
    for op, magnitude in zip(ops.unbind(1), magnitudes.unbind(1), strict=True):
        x = where_((op >= FIRST_WARP) & (op <= LAST_WARP), _warped, x, op, magnitude)
        x = where_((op >= FIRST_BLEND) & (op <= LAST_BLEND), _blended, x, op, magnitude)
        x = where_(op == POSTERIZE, posterize, x, magnitude)
        x = where_(op == SOLARIZE, _solarized, x, magnitude)
        x = where_(op == AUTOCONTRAST, autocontrast, x)
        x = where_(op == EQUALIZE, equalize, x)
    return x


def matrices(op: Tensor, magnitude: Tensor, size: Size) -> Tensor:
    """The geometric operations.  op, magnitude: B; size: of the view → B,2,3 float64, as `warp.identity`'s

    Shears keep the left and the upper edge, as in AutoAugment's code and torchvision's.
    """
    matrix, m, (height, width) = identity(len(op), op.device), magnitude.double(), sides(size)

    def only(kind: int, values: Tensor) -> Tensor:
        return torch.where(op == kind, values, 0.0)

    matrix[:, 0, 1], matrix[:, 1, 0] = only(SHEAR_X, m), only(SHEAR_Y, m)
    matrix[:, 0, 2] = only(SHEAR_X, m * height / 2) - only(TRANSLATE_X, m)
    matrix[:, 1, 2] = only(SHEAR_Y, m * width / 2) - only(TRANSLATE_Y, m)
    return torch.where((op == ROTATE)[:, None, None], rotation(m), matrix)


def _warped(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    return warp(x, matrices(op, magnitude, (x.shape[-2], x.shape[-1])))


def _blended(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    """Brightness, color, contrast and sharpness: the image blended with black, gray, the mean gray level or a smooth image."""
    gray = luma(x)
    level = torch.where(per_image(op == BRIGHTEN), 0.0, gray.mean((1, 2, 3), keepdim=True))
    base = torch.where(per_image(op == COLOR), gray, level)
    base = where_(op == SHARPEN, smooth, base.expand_as(x).contiguous(), x)
    return torch.lerp(base, x, per_image(1 + magnitude)).clamp_(0, 1)


def smooth(_: Tensor, x: Tensor) -> Tensor:
    """The mean over 3×3 pixels in which the middle counts five times; a border of one pixel stays.  x: B,C,h,w → the same"""
    if min(x.shape[-2:]) <= 2:
        return x
    out = x.clone()
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    out[..., 1:-1, 1:-1] = (around + 4 * x[..., 1:-1, 1:-1]) / 13
    return out


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """So many bits a channel.  bits: B, 0 … 8"""
    levels = per_image(torch.exp2(bits))
    return (x * levels).floor().minimum(levels - 1) / levels


def _solarized(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x >= per_image(threshold), 1 - x, x)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel's darkest value becomes 0, its brightest 1."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high == low
    return ((x - torch.where(flat, 0.0, low)) / torch.where(flat, 1.0, high - low)).clamp_(0, 1)


def equalize(x: Tensor) -> Tensor:
    """Each channel's 256 levels made equally frequent: Pillow's rule on the image rounded down to 8 bits."""
    level = (x * TO_BYTE).long().flatten(2)  # B,C,h*w
    counts = torch.zeros(*level.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, level, torch.ones_like(level))
    brightest = level.amax(2, keepdim=True)
    step = (level.shape[2] - counts.gather(2, brightest)) // 255
    below = counts.cumsum(2) - counts  # pixels that are darker
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, level), level).view_as(x).to(x.dtype) / 255


def check(policy: object, n: object, magnitude: object) -> None:
    """Raises ValueError where the settings of a policy are none."""
    if policy not in POLICIES:
        raise ValueError(f"augment.policy={policy}: must be one of {', '.join(POLICIES)}")
    if type(n) is not int or not 1 <= n <= MOST:
        raise ValueError(f"augment.policy_n={n}: a whole number of operations, 1 to {MOST}")
    if type(magnitude) is not int or not 0 <= magnitude < BINS:
        raise ValueError(f"augment.policy_magnitude={magnitude}: a whole number from 0 to {BINS - 1}")
