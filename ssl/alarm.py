"""When has an encoder become worse than it was? By the same images, classified before and now.

The images are the held-out ones, and training ones that each are left out of the vote on them.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from linear_eval.knn import knn_left_out

AT_ONCE, AGAIN = 0.01, 0.03  # levels of the sign test at one check, and at each of two checks in a row
LEFT_OUT = 2_000  # training images at most that are classified


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


def is_worse(changes: Sequence[Change]) -> bool:
    """By the last of the checks so far, or the last two.

    Of an encoder that has not changed in accuracy, 10 checks sound it in 7 % of runs at most (tests/ssl/test_alarm.py has the
    simulation; docs/own_images.md the rates).
    """
    return changes[-1].p_value < AT_ONCE or (len(changes) > 1 and all(one.p_value < AGAIN for one in changes[-2:]))


def change(before: Tensor, now: Tensor) -> Change:
    """before, now: N each; 1 where an image was classified rightly, 0 where not, -1 where it could not be read.

    Of different lengths (a run that an earlier version began looked at fewer images) the common part counts.
    """
    count = min(len(before), len(now))
    before, now = before[:count], now[:count]
    both = (before >= 0) & (now >= 0)
    before, now = before[both].bool(), now[both].bool()
    return Change(int((before & ~now).sum()), int((~before & now).sum()))


def hits(positions: Tensor, right: Tensor, count: int) -> Tensor:
    """What `change` takes, from the positions of `count` images that could be read, N, and whether each was right, N."""
    out = torch.full((count,), -1, dtype=torch.int8)
    out[positions] = right.to(torch.int8)
    return out


def left_out_hits(rows: Tensor, labels: Tensor, positions: Tensor, count: int, classes: int) -> Tensor:
    """`hits` of training images, evenly spaced, by the votes of the others.

    rows: N,D, labels N and positions N of those of the `count` images that could be read.
    """
    places = (positions % -(-count // LEFT_OUT) == 0).nonzero()[:, 0]
    right = torch.from_numpy(knn_left_out(rows, labels, places, classes)) == labels[places]
    return hits(positions[places], right, count)
