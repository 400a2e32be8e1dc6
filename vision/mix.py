"""Images mixed with each other: mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899).

Rows 2i and 2i + 1 of a batch are partners. A batch is a piece of a seeded order, so that is as random as any other
pairing, and partners stay together however the batch is cut among processes, as long as each gets an even number.
Strengths come from the counter, as all random numbers of the data path do.
"""
import torch
from scipy.special import betaincinv
from torch import Tensor

from core import counter_rng


def shares(seed: int, epoch: int, indices: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's own share λ ~ Beta(α, α), whether it is cut rather than mixed, and where the cut is centered.

    indices: B; mixup, cutmix: α, 0 for never; both: either, half of the time each.  → B, B bool, B,2 in [0, 1)
    """
    u = counter_rng.uniform(seed, epoch, indices, counter_rng.MIX, 4)
    cut = u[:, 1] < {(True, True): 0.5, (False, True): 1.0}.get((mixup > 0, cutmix > 0), 0.0)
    alpha = torch.where(cut, cutmix, mixup).double().numpy(force=True)
    share = torch.from_numpy(betaincinv(alpha, alpha, u[:, 0].double().numpy(force=True))).float()
    return share.to(indices.device), cut, u[:, 2:]


def boxes(share: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """CutMix's box: an area of 1 − λ around its center, cut off at the edges.  B, B,2 → B,4: top, bottom, left, right"""
    side = torch.tensor([height, width], device=share.device)
    half = ((1 - share).sqrt()[:, None] * side / 2).round()  # B,2
    middle = (center * side).floor()
    low, high = (middle - half).clamp(min=0), torch.minimum(middle + half, side)
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], dim=1).long()


def masks(seed: int, epoch: int, indices: Tensor, mixup: float, cutmix: float, height: int, width: int) -> Tensor:
    """How much of each pixel is the image's own; the rest is its partner's.  indices: B → B,1,H,W"""
    share, cut, center = shares(seed, epoch, indices, mixup, cutmix)
    top, bottom, left, right = boxes(share, center, height, width)[:, :, None].unbind(1)  # each B,1
    y, x = torch.arange(height, device=indices.device), torch.arange(width, device=indices.device)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]  # B,H,W
    return torch.where(cut[:, None, None], 1 - inside.float(), share[:, None, None])[:, None]


def blend(x: Tensor, own: Tensor) -> Tensor:
    """Each row with its partner.  x: B,…; own: its own share, broadcast to x.  B must be even."""
    return torch.lerp(x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1), x, own.to(x.dtype))
