"""The resize of evaluation as part of an exported graph: images of any size → the input's shape, as vision/preprocess.py.

Pillow resamples the columns, rounds to 8 bits, resamples the rows and rounds again. So does this graph, by two matrices that
depend only on the image's size. Pillow's weights have 22 fractional bits, and some of its versions resample the rows of tall
images first, so a sum near half a grey level may be rounded the other way in each of the two passes. Results differ by at most
two of 255 grey levels, and are equal where the image already has the right size.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from vision.geometry import CROP, LETTERBOX, Geometry

LEVELS = 2  # of 255: how far a pixel may differ from Pillow's


@dataclass(frozen=True)
class Span:
    """What of a side is seen, as tensors that depend on the image's size.

    begin, length: in source pixels; first, count: the pixels of the input that it fills.
    """

    begin: Tensor
    length: Tensor
    first: Tensor
    count: Tensor


def fitted(images: Tensor, geometry: Geometry) -> Tensor:
    """B,C,H,W uint8 → B,C,height,width float32, whole grey levels from 0 to 255."""
    if geometry.is_center_square:
        return center_square(images, geometry.height)
    H, W = images.shape[2:]
    height, width = (torch.scalar_tensor(side, dtype=torch.int64) for side in (H, W))
    vertical, horizontal = spans(geometry, height.double(), width.double())
    rows = span_weights(H, vertical, geometry.height)  # height,H
    columns = span_weights(W, horizontal, geometry.width)  # width,W
    out = _levels(rows @ _levels(images.float() @ columns.T))
    if geometry.fit != LETTERBOX:
        return out
    covered = _covered(vertical, geometry.height)[:, None] * _covered(horizontal, geometry.width)
    levels = (255 * torch.tensor(geometry.fill, dtype=torch.float64)).round().float()[:, None, None]
    return out * covered + levels * (1 - covered)


def spans(geometry: Geometry, height: Tensor, width: Tensor) -> tuple[Span, Span]:
    """`Geometry.placement` as a graph, of the two sides.  height, width: of the image, float64"""
    h, w = (torch.tensor(side, dtype=torch.float64) for side in (geometry.height, geometry.width))
    ratio, own, none = w / h, width / height, torch.zeros((), dtype=torch.float64)
    if geometry.fit == CROP:
        inner_width = torch.where(own > ratio, ratio * height, width)
        inner_height = torch.where(own < ratio, width / ratio, height)
        vertical = Span((height - inner_height) * 0.5, inner_height, none, h)
        return vertical, Span((width - inner_width) * 0.5, inner_width, none, w)
    if geometry.fit != LETTERBOX:
        return Span(none, height, none, h), Span(none, width, none, w)
    inner_height = torch.where(own > ratio, (height / width * w).round().clamp(min=1), h)  # rounds half to even, as Python
    inner_width = torch.where(own < ratio, (width / height * h).round().clamp(min=1), w)
    vertical = Span(none, height, ((h - inner_height) * 0.5).round(), inner_height)
    return vertical, Span(none, width, ((w - inner_width) * 0.5).round(), inner_width)


def span_weights(side: int, span: Span, size: int) -> Tensor:
    """Pillow's antialiased bilinear filter of a span.  side: the image's, as a shape → size,side float32; 0 where it is not."""
    scale = span.length / span.count  # source pixels to an output pixel
    support = torch.maximum(scale, torch.ones_like(scale))
    output = torch.arange(size, dtype=torch.float64) - span.first + 0.5
    center = (span.begin + output * scale)[:, None]  # size,1
    pixel = torch.arange(side) + 0.5  # side
    triangle = (1 - (pixel - center).abs() / support).clamp(min=0)
    weights = triangle / triangle.sum(1, keepdim=True).clamp(min=1e-9)
    return (weights * _covered(span, size)[:, None]).float()


def _covered(span: Span, size: int) -> Tensor:
    """1 where the span fills a pixel, else 0.  → size float32"""
    pixel = torch.arange(size, dtype=torch.float64)
    return ((pixel >= span.first) & (pixel < span.first + span.count)).float()


def center_square(images: Tensor, size: int) -> Tensor:
    """B,C,H,W uint8 → B,C,size,size float32, whole grey levels from 0 to 255."""
    H, W = images.shape[2:]
    height, width = (torch.scalar_tensor(side, dtype=torch.int64) for side in (H, W))
    shortest = torch.minimum(height, width)
    rows, columns = weights(H, height, shortest, size), weights(W, width, shortest, size)  # S,H and S,W
    return _levels(rows @ _levels(images.float() @ columns.T))  # B,C,S,S


def weights(side: int, length: Tensor, shortest: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bilinear filter of the center square along one side.

    side, length: the side's pixels, as a shape and as a tensor; shortest: of the shorter side.  → size,side
    """
    scaled = torch.div(size * length, shortest, rounding_mode="floor")
    beyond = scaled - size
    half = torch.div(beyond, 2, rounding_mode="floor")
    start = half + (beyond % 2) * (half % 2)  # Python's round: half to even
    scale = length.float() / scaled.float()  # source pixels to an output pixel
    support = torch.maximum(scale, torch.ones_like(scale))
    center = (start + torch.arange(size, device=length.device) + 0.5)[:, None] * scale  # S,1
    pixel = torch.arange(side, device=length.device) + 0.5  # side
    triangle = (1 - (pixel - center).abs() / support).clamp(min=0)
    return triangle / triangle.sum(1, keepdim=True)


def _levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)
