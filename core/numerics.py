"""Square root, unit length and cosine with a finite gradient where their formulas have none: at zero.

Elsewhere each returns, and differentiates to, the same bits as the torch function that it stands in for. Losses use these,
because embeddings that are exactly zero or exactly equal occur: blank images, dead units, a batch of copies.
"""
import math

import torch
from torch import Tensor
from torch.nn import functional as F


def safe_sqrt(x: Tensor) -> Tensor:
    """√x, and 0 with gradient 0 where x is 0, or negative by rounding."""
    positive = x > 0
    return torch.where(positive, x, 1.0).sqrt() * positive


def unit(x: Tensor, dim: int) -> Tensor:
    """x / ‖x‖ along `dim`, as F.normalize; the zero vector stays zero with gradient 0, where F.normalize's is 1e12."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length > 0, length.clamp(min=1e-12), math.inf)


def cosine(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """Cosine similarity along `dim`, as F.cosine_similarity; with a zero vector it is 0, and that vector's gradient 0."""
    a, b = (torch.where((x != 0).any(dim, keepdim=True), x, x.detach()) for x in (a, b))
    return F.cosine_similarity(a, b, dim=dim, eps=1e-8)
