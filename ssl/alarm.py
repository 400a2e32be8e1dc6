"""When has an encoder become worse than it was? By the same images, classified before and now."""
import math
from dataclasses import dataclass

import torch
from torch import Tensor

ALPHA = 0.01  # so often does an unchanged encoder, scored on fresh images, look worse


@dataclass(frozen=True)
class Change:
    """Of images that were classified at the start and now."""

    lost: int  # right at the start, wrong now
    gained: int  # the reverse

    @property
    def p_value(self) -> float:
        """Of the one-sided sign test on the images that changed (McNemar, exact): how likely so many losses are by chance."""
        n = self.lost + self.gained
        return sum(math.comb(n, k) for k in range(self.lost, n + 1)) / 2**n

    @property
    def worse(self) -> bool:
        return self.p_value < ALPHA


def change(before: Tensor, now: Tensor) -> Change:
    """before, now: N each; 1 where an image was classified rightly, 0 where not, -1 where it could not be read."""
    both = (before >= 0) & (now >= 0)
    before, now = before[both].bool(), now[both].bool()
    return Change(int((before & ~now).sum()), int((~before & now).sum()))


def hits(positions: Tensor, right: Tensor, count: int) -> Tensor:
    """What `change` takes, from the positions of `count` images that could be read, N, and whether each was right, N."""
    out = torch.full((count,), -1, dtype=torch.int8)
    out[positions] = right.to(torch.int8)
    return out
