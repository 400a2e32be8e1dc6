"""What is random about a corrupted image: a function of (seed, image, corruption, severity, use), and never stored."""
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from core import counter_rng

USES = 8  # of random numbers that one corruption may keep apart


@dataclass(frozen=True)
class Draws:
    """The random numbers of B images under one corruption.

    indices: B int64, of the images in their split; number: the corruption's; severity: 1 … 5.
    """

    seed: int
    indices: Tensor
    number: int
    severity: int

    def uniform(self, use: int, *shape: int) -> np.ndarray:
        """In (0, 1), 24 bits each.  → B,*shape float64"""
        count = int(np.prod(shape))
        epoch = self.severity * USES + use
        bits = counter_rng.random_bits(self.seed, epoch, self.indices, counter_rng.CORRUPT + self.number, count)
        values = ((bits >> 8).to(torch.float64) + 0.5) * 2.0**-24
        return values.numpy().reshape(len(self.indices), *shape)

    def normal(self, use: int, *shape: int) -> np.ndarray:
        """Standard normal, by the inverse of its distribution.  → B,*shape float32"""
        return ndtri(self.uniform(use, *shape)).astype(np.float32)
