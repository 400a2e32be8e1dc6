"""Operations on batches of pixels, each image by its own parameters: the steps that vision/augment.py chains.

For given parameters each gives what torchvision's functional operation of that name gives on float tensors.
"""
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from core.image_size import Size, sides
from vision.preprocess import LUMA

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SOLARIZE_AT = 128 / 255


def resized_crop(images: Tensor, box: Tensor, flip: Tensor, size: Size) -> Tensor:
    """Crop, flip and resize with antialiased bilinear weights.  B,C,H,W uint8, or float in [0, 1] → B,C,h,w float in [0, 1].

    Resampling is separable and linear: two small matrices an image, the flip folded into the horizontal one.
    """
    B, C, H, W = images.shape
    h, w = sides(size)
    top, left, height, width = box.unbind(1)
    rows = resize_weights(top, height, H, h)  # B,h,H
    columns = resize_weights(left, width, W, w, flip)  # B,w,W
    columns = columns if images.is_floating_point() else columns / 255
    x = rows @ images.transpose(1, 2).float().reshape(B, H, C * W)  # B,h,C*W
    x = x.view(B, h * C, W) @ columns.mT  # B,h*C,w
    x = x.view(B, h, C, w).transpose(1, 2).contiguous()
    return x.clamp_(0, 1)  # rounding may leave [0, 1] by an ulp


def resize_weights(start: Tensor, length: Tensor, source: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Weights that resample source pixels [start, start + length) to `size`.  start, length, flip: B → B,size,source.

    A triangle of half-width max(scale, 1) around each output pixel's center, cut off at the crop's edges and
    normalized: Pillow's and torchvision's antialiased bilinear filter.
    """
    start, length = start[:, None, None].float(), length[:, None, None].float()
    scale = length / size  # source pixels to an output pixel
    output = torch.arange(size, device=start.device, dtype=torch.float32)[:, None] + 0.5
    if flip is not None:
        output = torch.lerp(output, size - output, flip[:, None, None].float())
    center = output * scale  # B,size,1, relative to the crop
    pixel = torch.arange(source, device=start.device) + 0.5 - start  # B,1,source
    inside = ((pixel > 0) & (pixel < length)).float()
    weights = (pixel - center).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0).mul_(inside)
    return weights.div_(weights.sum(-1, keepdim=True))


def luma(x: Tensor) -> Tensor:
    """B,3,H,W → B,1,H,W; images of another number of channels as they are."""
    if x.shape[1] != 3:
        return x
    return LUMA[0] * x[:, 0:1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:3]


def grayscale(x: Tensor) -> Tensor:
    """Luma in every channel, as memory of its own."""
    return luma(x).expand_as(x).contiguous()


def color_jitter(x: Tensor, active: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.  x: B,C,H,W in [0, 1] → the same.

    active: B bool; order: B,4, which operation comes first, second, …; factors: B,4, in BRIGHTNESS … HUE's order.

    Three of the four blend the image with another one: y = clamp(f·x + (1 − f)·base), where base is black (brightness),
    the mean gray level (contrast), or the gray image (saturation). So one expression serves them, and only hue differs.
    Of images without color, gray ones or those of other bands, only brightness and contrast remain: the latter about the mean
    of all bands.
    """
    if x.shape[1] != 3:
        for operation in gray_order(order):
            x = _blend(x, active, operation, factors)
        return x
    hue = (order == HUE).int().argmax(1)
    operations = order.unbind(1)
    for place in range(3):  # what comes before the hue is turned, in one go for all images, and what comes after
        x = _blend(x, active & (place < hue), operations[place], factors)
    x = where_(active, turn_hue, x, factors[:, HUE])
    for place in range(1, 4):
        x = _blend(x, active & (place > hue), operations[place], factors)
    return x


def _blend(x: Tensor, active: Tensor, operation: Tensor, factors: Tensor) -> Tensor:
    """Each image's own operation, none of them the hue; images that are not active stay to the bit.  operation: B int64"""
    factor = torch.where(active, factors.gather(1, operation[:, None])[:, 0], 1)
    gray = luma(x)
    base = (gray.mean((1, 2, 3)) * (1 - factor) * (operation == CONTRAST))[:, None, None, None]
    if x.shape[1] == 3:
        base = torch.addcmul(base, gray, per_image((1 - factor) * (operation == SATURATION)))
    return torch.addcmul(base, x, per_image(factor)).clamp_(0, 1)


def gray_order(order: Tensor) -> tuple[Tensor, Tensor]:
    """B,4 → B and B: brightness and contrast, in each image's order."""
    brightness, contrast = ((order == operation).int().argmax(1) for operation in (BRIGHTNESS, CONTRAST))
    late = (brightness > contrast).to(order.dtype)
    return late, 1 - late


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue.  x: B,3,H,W in [0, 1]; turns: B in [−0.5, 0.5] → B,3,H,W.

    Through HSV, where with h in turns the three channels are max − chroma · clamp(2 − 6·|d|, 0, 1) and d is the
    distance around the circle from h + 1/2, h + 1/6 and h − 1/6.
    """
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    is_red, is_green = (high == red).to(x.dtype), (high == green).to(x.dtype)  # lerp by 0 or 1 is a fast, exact where
    difference = torch.lerp(torch.lerp(red - green, blue - red, is_green), green - blue, is_red)
    sector = (4 - 2 * is_green) * (1 - is_red)
    h = (difference / chroma.clamp(min=1e-12)).add_(sector).div_(6).add_(turns[:, None, None])  # gray has hue 0
    d = h[:, None] + _hue_shifts(x.device)
    d = d.sub_(d.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul((high - 2 * chroma)[:, None], chroma[:, None], d, value=6)


@functools.cache
def _hue_shifts(device: torch.device) -> Tensor:
    """Kept there: to bring them each time would wait for the device.  → 3,1,1"""
    return torch.tensor([1 / 2, 1 / 6, -1 / 6], device=device)[:, None, None]


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a kernel a tenth of the shorter side long, reflected at the edges.  x: B,C,h,w; sigma: B, pixels → B,C,h,w."""
    shorter = min(x.shape[-2:])
    radius = min(max(1, shorter // 20), shorter - 1)  # SimCLR: 10 % of the size; 224 → 23 taps, 32 → 3
    taps = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).unbind(1)  # 2r+1 tensors of B
    for dim in (-1, -2):
        length = x.shape[dim]
        padding = (radius, radius, 0, 0) if dim == -1 else (0, 0, radius, radius)
        padded = torch.nn.functional.pad(x, padding, mode="reflect")
        x = padded.narrow(dim, 0, length) * per_image(kernel[0])
        for i, weight in enumerate(kernel[1:], start=1):
            x.addcmul_(padded.narrow(dim, i, length), per_image(weight))
    return x


def solarize(x: Tensor) -> Tensor:
    """Invert what is bright: x where x < 128/255, else 1 − x."""
    return torch.lerp(x, 1 - x, (x >= SOLARIZE_AT).to(x.dtype))


def normalize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x − mean) / std.  x: B,C,H,W in [0, 1]; mean, std: C"""
    mean, std = mean.to(x.device)[:, None, None], std.to(x.device)[:, None, None]
    return torch.addcmul(-mean / std, x, 1 / std)


def normalize_images(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The input of a frozen encoder, without augmentation.  B,C,S,S; mean, std: C → float32, channels-last"""
    return normalize(in_unit_range(images), mean, std).contiguous(memory_format=torch.channels_last)


def in_unit_range(images: Tensor) -> Tensor:
    """uint8 → float32 in [0, 1]; float images are in it."""
    return images if images.is_floating_point() else images.float() / 255


def per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def where_(mask: Tensor, operation: Callable[..., Tensor], x: Tensor, *arguments: Tensor) -> Tensor:
    """Apply an operation to the masked images. A CPU computes those alone, in place; a GPU, which must not wait for
    their count, computes all and selects.
    """
    if x.device.type != "cpu":
        return torch.where(per_image(mask), operation(x, *arguments), x)
    rows = mask.nonzero()[:, 0]
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return operation(x, *arguments)
    return x.index_copy_(0, rows, operation(x[rows], *(a[rows] for a in arguments)))
