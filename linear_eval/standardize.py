"""Features standardized in blocks: memory holds a block in float32 or float64, never a copy of all rows."""
from dataclasses import dataclass

import torch
from torch import Tensor

from linear_eval.probe_data import Rows

BLOCK = 4_096  # rows that are converted from half precision at a time, outside training


@dataclass(frozen=True)
class Standardizer:
    """Columns to mean 0 and deviation 1 by the training images' statistics.  mean, inverse (1 / deviation): D"""

    mean: Tensor
    inverse: Tensor

    def __call__(self, x: Rows) -> Tensor:
        """B,D → B,D"""
        return (as_tensor(x).to(self.mean.device).to(self.mean.dtype) - self.mean).mul_(self.inverse)


@torch.no_grad()
def fit_standardizer(x: Rows, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Standardizer:
    """By the mean and the population's deviation of each column; in float32 unless `dtype` is given, or x is float64.  N,D

    Summed in float64 blocks about the first row, in one pass: so a constant column's deviation is 0, not a rounded one, and
    `inverse` is 0 there: such a column stays 0 in other images too.
    """
    first = as_tensor(x[:1]).to(device).double()[0]
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for rows in row_blocks(x):
        part = as_tensor(x[rows]).to(device).double() - first
        total += part.sum(0)
        squares += part.square_().sum(0)
    mean = total / len(x)
    variance = squares / len(x) - mean.square()
    dtype = dtype or (torch.float64 if as_tensor(x[:1]).dtype == torch.float64 else torch.float32)
    return Standardizer((first + mean).to(dtype), torch.where(variance > 0, variance.rsqrt(), 0).to(dtype))


def as_tensor(x: Rows) -> Tensor:
    """The same numbers, as a tensor that shares their memory where it may be written to."""
    return x.detach() if isinstance(x, Tensor) else torch.from_numpy(x if x.flags.writeable else x.copy())


def row_blocks(x: Rows) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]
