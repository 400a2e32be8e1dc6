"""A sample of a split that is read again and again, a block at a time: memory holds blocks, never all its images."""
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from linear_eval.features import BLOCK, evenly, images_of
from vision.encoders import Spec
from vision.splits import Images
from vision.streamed import Streamed

KEPT = 2**28  # bytes of images that a sample keeps between passes, at most; what is beyond is read again in each pass

Describe = Callable[[Tensor, Tensor], Tensor]  # images B,C,S,S uint8 and their positions in the sample B → B,D


class Sample:
    """At most `count` images of a split, evenly spaced, as an encoder of this spec takes them.

    Iterating reads all of them, a block of B,C,S,S uint8 at a time, and the next one while a block is used. A neighbor
    replaces an image that cannot be read; `describe` leaves such an image out.
    """

    def __init__(self, split: Images | Streamed, count: int, spec: Spec) -> None:
        self.split, self.spec = split, spec
        self.indices = evenly(len(split), count)
        self.labels = None if split.labels is None else split.labels[self.indices]
        self._kept: list[Tensor] = []  # the first blocks, as far as KEPT allows

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        parts = self.indices.split(BLOCK)
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self._read, 0, parts[0])
            for number in range(len(parts)):
                images = following.result()
                if number + 1 < len(parts):
                    following = reader.submit(self._read, number + 1, parts[number + 1])
                yield images

    def describe(self, *functions: Describe) -> tuple[Tensor, list[Tensor]]:
        """One pass over the images.  → positions of those that could be read, N; rows by each function, N,D.

        Raises ValueError where none could be read.
        """
        positions, rows = [], [[] for _ in functions]
        for places, images in zip(torch.arange(len(self)).split(BLOCK), self, strict=True):
            readable = self._readable(places)
            if not readable.all():
                places, images = places[readable], images[readable]
            if len(places):
                positions.append(places)
                for blocks, function in zip(rows, functions, strict=True):
                    blocks.append(function(images, places))
        if not positions:
            raise ValueError(f"none of {len(self)} images can be read, such as {self.split.name(int(self.indices[0]))}")
        return torch.cat(positions), [torch.cat(blocks) for blocks in rows]

    def _read(self, number: int, indices: Tensor) -> Tensor:
        if number < len(self._kept):
            return self._kept[number]
        images = images_of(self.split, indices, self.spec.geometry, self.spec.channels)
        if number == len(self._kept) and sum(part.nbytes for part in self._kept) + images.nbytes <= KEPT:
            self._kept.append(images)
        return images

    def _readable(self, positions: Tensor) -> Tensor:
        """Which of these images could be read. Valid once their block was read.  → B bool"""
        skipped = getattr(self.split, "skipped", {})
        if not skipped:
            return torch.ones(len(positions), dtype=torch.bool)
        return torch.tensor([self.split.where(int(i)) not in skipped for i in self.indices[positions]])


def at_most(split: Images | Streamed, count: int) -> Images | Streamed:
    """The split, or `count` images of it, evenly spaced, where it has more."""
    return split if len(split) <= count else split.select(evenly(len(split), count))
