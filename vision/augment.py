"""Augmentation of whole batches on the device: uint8 in, normalised float views out.

A recipe is a list of views; a view is the SimCLR family's chain (Chen et al. 2020, arXiv 2002.05709, appendix A):

    random resized crop → flip → colour jitter → greyscale → Gaussian blur → solarize → normalise

`View.draw` turns (seed, epoch, index, view) into parameters, the same whatever the process or worker (vision/random.py);
`render` applies them to the batch. Each image has its own parameters, its own order of the four jitter operations
included, and for given parameters the result is that of torchvision's functional operations on float tensors.

    uv run python -m vision.augment --data digits        # writes a picture of a batch and its views
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import permutations

import torch
from torch import Tensor

from vision import random

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision rounds it
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = torch.tensor(list(permutations(range(4))))  # 24,4
ATTEMPTS = 10  # crops tried before the central one is taken, as torchvision does
SOLARIZE_AT = 128 / 255
CHUNK = 256  # images rendered together on a CPU: fewer calls win over smaller working sets, measured at 32 pixels


@dataclass(frozen=True)
class Draw:
    """The parameters of one view of B images. Every field is a tensor whose first dimension is B."""

    box: Tensor  # B,4 int64: top, left, height, width
    flip: Tensor  # bool
    jitter: Tensor  # bool
    order: Tensor  # B,4 int64: which operation comes first, second, …
    factors: Tensor  # B,4: brightness, contrast, saturation, hue
    grey: Tensor  # bool
    blur: Tensor  # bool
    sigma: Tensor  # pixels
    solarize: Tensor  # bool

    def to(self, device: torch.device) -> "Draw":
        return Draw(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __getitem__(self, rows: slice) -> "Draw":
        return Draw(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class View:
    """How one view is drawn. Probabilities are `flip`, `jitter`, `grey`, `blur`, `solarize`; the rest are strengths."""

    size: int  # pixels a side
    crop: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width : height
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2  # turns, at most 0.5
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarize: float = 0.0

    def __post_init__(self):
        for name in ("flip", "jitter", "grey", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}={getattr(self, name)}: a probability lies between 0 and 1")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"augment.crop={list(self.crop)}: needs 0 < smallest ≤ largest ≤ 1 (shares of the area)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"augment.ratio={list(self.ratio)}: needs 0 < smallest ≤ largest (width : height)")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"augment.hue={self.hue}: hue turns by at most 0.5")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError("augment.brightness, .contrast and .saturation cannot be negative")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"augment.sigma={list(self.sigma)}: needs 0 < smallest ≤ largest (pixels)")

    def draw(self, seed: int, epoch: int, indices: Tensor, stream: int, height: Tensor, width: Tensor) -> Draw:
        """Parameters for the images at `indices` (B) whose sizes are `height` and `width` (B, or scalars), in pixels."""
        u = random.uniform(seed, epoch, indices, stream, 2 * ATTEMPTS + 14)
        crop, u = u[:, : 2 * ATTEMPTS + 2], u[:, 2 * ATTEMPTS + 2 :].unbind(1)
        spread = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue], device=indices.device)
        centre = torch.tensor([1.0, 1.0, 1.0, 0.0], device=indices.device)
        low = torch.where(centre > 0, (centre - spread).clamp(min=0), -spread)
        factors = low + torch.stack(u[3:7], dim=1) * (centre + spread - low)  # B,4
        return Draw(
            box=crop_box(crop, height, width, self.crop, self.ratio),
            flip=u[0] < self.flip,
            jitter=u[1] < self.jitter,
            order=ORDERS.to(indices.device)[(u[2] * len(ORDERS)).long()],
            factors=factors,
            grey=u[7] < self.grey,
            blur=u[8] < self.blur,
            sigma=self.sigma[0] + u[9] * (self.sigma[1] - self.sigma[0]),
            solarize=u[10] < self.solarize,
        )


class Recipe:
    """The views of a method's batch, and the data's normalisation.

    settings: `View`'s fields. A plain value holds for every view; a list with one entry a view gives each its own.
    mean, std: one figure a channel, for images in [0, 1].
    """

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...], views: int = 2, **settings):
        known = [f.name for f in fields(View) if f.name != "size"]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"augment.{unknown[0]} is not a setting; there are: views, {', '.join(known)}")
        self.views = [
            View(size, **{name: _of_view(name, value, i, views) for name, value in settings.items()})
            for i in range(views)
        ]
        self.size = size
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def draw(self, seed: int, epoch: int, indices: Tensor, height, width) -> list[Draw]:
        """One `Draw` a view for the images at `indices` (B int64)."""
        return [view.draw(seed, epoch, indices, i, height, width) for i, view in enumerate(self.views)]

    def render(self, images: Tensor | list[Tensor], draws: list[Draw]) -> list[Tensor]:
        """Whole images (B,C,H,W uint8), or per view what was cropped already (B,C,S,S uint8) → a B,C,S,S float a view."""
        cropped = isinstance(images, list)
        sources = images if cropped else [images] * len(draws)
        return [
            render(source, draw, self.size, self.mean, self.std, cropped)
            for source, draw in zip(sources, draws, strict=True)
        ]

    def plain(self, images: Tensor) -> Tensor:
        """Evaluation: uint8 B,C,S,S → normalised float, channels-last."""
        return normalise(images.float() / 255, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def _of_view(name: str, value, view: int, views: int):
    """A setting for one of the views: a list gives each view its own; a pair such as `crop` nests one level deeper."""
    is_pair = name in ("crop", "ratio", "sigma")
    if isinstance(value, (list, tuple)) and not (is_pair and not isinstance(value[0], (list, tuple))):
        if len(value) != views:
            raise ValueError(f"augment.{name} lists {len(value)} values for {views} views: give one, or one a view")
        value = value[view]
    return tuple(value) if is_pair else value


def crop_box(u: Tensor, height, width, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """RandomResizedCrop's box: the first of ten attempts that fits, else the largest central one of an allowed ratio.

    u: B,22 uniform numbers; height, width: B or scalars → B,4 int64 (top, left, height, width).
    """
    height = torch.as_tensor(height, device=u.device).expand(len(u)).float()
    width = torch.as_tensor(width, device=u.device).expand(len(u)).float()
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
    found = fits.any(1)
    w, h = torch.where(found, w, central_w), torch.where(found, h, central_h)
    top = torch.where(found, (u[:, -2] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(found, (u[:, -1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()


def render(images: Tensor, draw: Draw, size: int, mean: Tensor, std: Tensor, cropped: bool = False) -> Tensor:
    """One view of a batch.  images: B,C,H,W uint8 → B,C,S,S float32, normalised, channels-last.

    cropped: the images are the crops already, resized to S, and only the flip is left to do of the geometry.
    """
    draw, mean, std = draw.to(images.device), mean.to(images.device), std.to(images.device)
    step = CHUNK if images.device.type == "cpu" else len(images)
    B, C = images.shape[:2]
    out = torch.empty(B, C, size, size, device=images.device, memory_format=torch.channels_last)
    for rows in (slice(i, i + step) for i in range(0, B, step)):
        d = draw[rows]
        if cropped:
            x = _where(d.flip, lambda x: x.flip(-1), images[rows].float() / 255)
        else:
            x = resized_crop(images[rows], d.box, d.flip, size)
        x = colour_jitter(x, d)
        x = _where(d.grey, lambda x: luma(x).expand_as(x), x)
        x = _where(d.blur, gaussian_blur, x, d.sigma)
        x = _where(d.solarize, lambda x: torch.lerp(x, 1 - x, (x >= SOLARIZE_AT).to(x.dtype)), x)
        out[rows] = normalise(x, mean, std)
    return out


def resized_crop(images: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, flip and resize with antialiased bilinear weights.  B,C,H,W uint8 → B,C,S,S float in [0, 1].

    Resampling is separable and linear: two small matrices an image, the flip folded into the horizontal one.
    """
    B, C, H, W = images.shape
    top, left, height, width = box.unbind(1)
    rows = resize_weights(top, height, H, size)  # B,S,H
    columns = resize_weights(left, width, W, size, flip) / 255  # B,S,W
    x = rows @ images.transpose(1, 2).float().reshape(B, H, C * W)  # B,S,C*W
    x = x.view(B, size * C, W) @ columns.mT  # B,S*C,S
    x = x.view(B, size, C, size).transpose(1, 2).contiguous()
    return x.clamp_(0, 1)  # rounding may leave [0, 1] by an ulp


def resize_weights(start: Tensor, length: Tensor, source: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Weights that resample source pixels [start, start + length) to `size`.  start, length, flip: B → B,size,source.

    A triangle of half-width max(scale, 1) around each output pixel's centre, cut off at the crop's edges and
    normalised: Pillow's and torchvision's antialiased bilinear filter.
    """
    start, length = start[:, None, None].float(), length[:, None, None].float()
    scale = length / size  # source pixels to an output pixel
    output = torch.arange(size, device=start.device, dtype=torch.float32)[:, None] + 0.5
    if flip is not None:
        output = torch.lerp(output, size - output, flip[:, None, None].float())
    centre = output * scale  # B,size,1, relative to the crop
    pixel = torch.arange(source, device=start.device) + 0.5 - start  # B,1,source
    inside = ((pixel > 0) & (pixel < length)).float()
    weights = (pixel - centre).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0).mul_(inside)
    return weights.div_(weights.sum(-1, keepdim=True))


def luma(x: Tensor) -> Tensor:
    """B,3,H,W → B,1,H,W; grey images as they are."""
    if x.shape[1] == 1:
        return x
    return GREY[0] * x[:, 0:1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:3]


def colour_jitter(x: Tensor, draw: Draw) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.  B,C,H,W in [0, 1] → the same.

    Three of the four blend the image with another one: y = clamp(f·x + (1 − f)·base), where base is black (brightness),
    the mean grey level (contrast), or the grey image (saturation). So one expression serves them, and only hue differs.
    """
    colour = x.shape[1] == 3
    for operation in draw.order.unbind(1):
        factor = draw.factors.gather(1, operation[:, None])[:, 0]
        blends = draw.jitter & (operation != HUE)
        if not colour:
            blends = blends & (operation != SATURATION)
        factor = torch.where(blends, factor, 1)
        grey = luma(x)
        level = grey.mean((1, 2, 3)) * (1 - factor) * (operation == CONTRAST)
        base = level[:, None, None, None]
        if colour:
            base = torch.addcmul(base, grey, _per_image((1 - factor) * (operation == SATURATION)))
        x = torch.addcmul(base, x, _per_image(factor)).clamp_(0, 1)
        if colour:
            x = _where(draw.jitter & (operation == HUE), turn_hue, x, draw.factors[:, HUE])
    return x


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue.  x: B,3,H,W in [0, 1]; turns: B in [−0.5, 0.5] → B,3,H,W.

    Through HSV, where with h in turns the three channels are max − chroma · clamp(2 − 6·|d|, 0, 1) and d is the distance
    around the circle from h + 1/2, h + 1/6 and h − 1/6.
    """
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    is_red, is_green = (high == red).to(x.dtype), (high == green).to(x.dtype)  # lerp by 0 or 1 is a fast, exact where
    difference = torch.lerp(torch.lerp(red - green, blue - red, is_green), green - blue, is_red)
    sector = (4 - 2 * is_green) * (1 - is_red)
    h = (difference / chroma.clamp(min=1e-12)).add_(sector).div_(6).add_(turns[:, None, None])  # grey has hue 0
    d = h[:, None] + torch.tensor([1 / 2, 1 / 6, -1 / 6], device=x.device)[:, None, None]
    d = d.sub_(d.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul((high - 2 * chroma)[:, None], chroma[:, None], d, value=6)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a kernel a tenth of the image long, reflected at the edges.  x: B,C,S,S; sigma: B, pixels → B,C,S,S."""
    radius = max(1, x.shape[-1] // 20)  # SimCLR: 10 % of the size; 224 → 23 taps, 32 → 3
    taps = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).unbind(1)  # 2r+1 tensors of B
    for dim in (-1, -2):
        length = x.shape[dim]
        padding = (radius, radius, 0, 0) if dim == -1 else (0, 0, radius, radius)
        padded = torch.nn.functional.pad(x, padding, mode="reflect")
        x = padded.narrow(dim, 0, length) * _per_image(kernel[0])
        for i, weight in enumerate(kernel[1:], start=1):
            x.addcmul_(padded.narrow(dim, i, length), _per_image(weight))
    return x


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    mean, std = mean.to(x.device)[:, None, None], std.to(x.device)[:, None, None]
    return torch.addcmul(-mean / std, x, 1 / std)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _where(mask: Tensor, operation: Callable[..., Tensor], x: Tensor, *arguments: Tensor) -> Tensor:
    """Apply an operation to the masked images. A CPU computes those alone, in place; a GPU, which must not wait for
    their count, computes all and selects.
    """
    if x.device.type != "cpu":
        return torch.where(_per_image(mask), operation(x, *arguments), x)
    rows = mask.nonzero()[:, 0]
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return operation(x, *arguments)
    return x.index_copy_(0, rows, operation(x[rows], *(a[rows] for a in arguments)))


def picture(images: Tensor, recipe: Recipe, seed: int = 0) -> bytes:
    """A PNG: images in the first row, their views below.  images: B,C,S,S uint8."""
    import io

    from PIL import Image

    indices = torch.arange(len(images))
    views = recipe.render(images, recipe.draw(seed, 0, indices, *images.shape[2:]))
    mean, std = recipe.mean[:, None, None], recipe.std[:, None, None]
    rows = [images.float() / 255, *((v * std + mean).clamp(0, 1) for v in views)]
    grid = torch.stack(rows)  # rows,B,C,S,S
    grid = torch.nn.functional.pad(grid, (1, 1, 1, 1), value=1.0)
    grid = grid.permute(0, 3, 1, 4, 2).flatten(1, 1).flatten(0, 1).flatten(1, 2)  # rows*S,B*S,C
    array = (grid * 255).round().to(torch.uint8).expand(-1, -1, 3).numpy()
    scale = max(1, 96 // recipe.size)
    image = Image.fromarray(array).resize((array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
