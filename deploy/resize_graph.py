"""The resize of evaluation as part of an exported graph: images of any size → the center square of vision/preprocess.py.

Pillow resamples the columns, rounds to 8 bits, resamples the rows and rounds again. So does this graph, by two matrices that
depend only on the image's size. Pillow's weights have 22 fractional bits, and some of its versions resample the rows of tall
images first, so a sum near half a grey level may be rounded the other way in each of the two passes. Results differ by at most
two of 255 grey levels, and are equal where the image already has the right size.
"""
import torch
from torch import Tensor

LEVELS = 2  # of 255: how far a pixel may differ from Pillow's


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
