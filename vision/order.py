"""The order of an epoch in windows: shards at random, and at random the images of a few consecutive ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core import counter_rng


@dataclass(frozen=True)
class Windows:
    """shard: N int64, of each image its shard; size: shards whose images are shuffled among each other."""

    shard: Tensor
    size: int

    def permutation(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch: N int64. Equal to `counter_rng.permutation` where one window holds all shards.

        Shards are ordered by random bits of their own, cut into windows of `size`, and the images of each window are in the
        order that they have among all images of the epoch's permutation.
        """
        numbers, of_image = self.shard.unique(return_inverse=True)
        place = counter_rng.permutation(seed, epoch, len(numbers), counter_rng.SHARDS).argsort()  # of each shard
        order = counter_rng.permutation(seed, epoch, len(self.shard))
        window = place[of_image] // self.size
        return order[window[order].argsort(stable=True)]

    @property
    def images(self) -> int:
        """Of a window, on average."""
        return max(1, len(self.shard) * self.size // max(1, len(self.shard.unique())))
