"""Turning, rotating, shearing and shifting views, each image by its own parameters.

For given parameters each gives what torchvision's functional operation gives on float tensors: bilinear, black where the
source is outside of the image.
"""
import torch
from torch import Tensor

from vision.pixels import where_


def orient(x: Tensor, vflip: Tensor, turns: Tensor) -> Tensor:
    """Vertical flip, then counterclockwise quarter turns: pixels change places.  x: B,C,h,w; vflip: B bool; turns: B, 0 … 3,
    0 or 2 where h and w differ.
    """
    x = where_(vflip, lambda x: x.flip(-2), x)
    for count in (1, 2, 3) if x.shape[-1] == x.shape[-2] else (2,):
        x = where_(turns == count, lambda x, count=count: x.rot90(count, (-2, -1)), x)
    return x


def identity(count: int, device: torch.device) -> Tensor:
    """→ B,2,3 float64: from an output pixel to where it comes from, in pixels relative to the center: (x, y, 1) → (x, y)."""
    return torch.eye(2, 3, dtype=torch.float64, device=device).repeat(count, 1, 1)


def rotation(angle: Tensor) -> Tensor:
    """Counterclockwise rotation about the center.  angle: B, degrees → B,2,3 float64, as `identity`'s"""
    matrix, radians = identity(len(angle), angle.device), torch.deg2rad(angle.double())
    cos, sin = radians.cos(), radians.sin()
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cos, -sin, sin, cos
    return matrix


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear samples, 0 outside.  x: B,C,h,w; matrix: B,2,3 float64, from output to source as `identity`'s → B,C,h,w"""
    h, w = x.shape[-2:]
    column, row = (torch.arange(side, device=x.device) - (side - 1) / 2 for side in (w, h))
    places = torch.stack([column.expand(h, w), row[:, None].expand(h, w), torch.ones(h, w, device=x.device)], dim=-1)
    half = torch.tensor([0.5 * w, 0.5 * h], dtype=matrix.dtype, device=matrix.device)
    scaled = (matrix.mT / half).to(x.dtype)  # B,3,2: grid_sample's coordinates run from −1 to 1
    grid = (places.view(1, h * w, 3) @ scaled).view(-1, h, w, 2)
    return torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
