"""Data + recipe + world → batches.

Global batch g of an epoch is the same set of images at any number of processes: one seeded order, cut into batches,
each cut among the processes in turn. What a step sees is a function of its number, so a loader can start at any step.
"""
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from core import counter_rng
from core.distributed import World
from core.method import Batch
from core.run import say
from vision.augment import Recipe
from vision.encoders import fit_channels
from vision.splits import Images
from vision.streamed import Streamed, refuse_many
from vision.workers import items, shared_memory_short

AHEAD = 16_384  # images whose parameters are drawn at once: hundreds of operations, which cost a GPU as much for a few
AT_ONCE = 4_000_000  # decoded pixels that a worker holds at most before it cuts its crops, or one image


class Plan:
    """Which images make step s on this process."""

    def __init__(self, images: int, batch_size: int, seed: int, world: World, labels: Tensor | None = None):
        """labels: those of the images, where classes are to be equally frequent (`counter_rng.balanced`)."""
        if batch_size < 1 or batch_size % world.size:
            raise ValueError(f"batch_size={batch_size} does not divide among {world.size} processes")
        if batch_size > images:
            raise ValueError(f"batch_size={batch_size} is larger than the data: {images} images to train on")
        self.images, self.batch_size, self.seed, self.world, self.labels = images, batch_size, seed, world, labels
        self.steps_an_epoch = images // batch_size
        self._order: tuple[int, Tensor] | None = None  # of the epoch at hand

    def at(self, step: int) -> tuple[int, Tensor]:
        """(epoch, indices of this process's share of the global batch: B int64)."""
        epoch, batch = divmod(step, self.steps_an_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        share = self.batch_size // self.world.size
        start = batch * self.batch_size + self.world.rank * share
        return epoch, self._order[1][start : start + share]

    def _shuffled(self, epoch: int) -> Tensor:
        if self.labels is not None:
            return counter_rng.balanced(self.seed, epoch, self.labels)
        return counter_rng.permutation(self.seed, epoch, self.images)


class MemoryLoader:
    """A split held in memory: uint8 on the device, every view made there."""

    def __init__(self, split: Images, recipe: Recipe, plan: Plan, channels: int):
        self.images = fit_channels(split.images, channels).to(plan.world.device)
        self.labels = split.labels
        self.recipe, self.plan = recipe, plan
        self.skipped: dict[str, str] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        height, width = self.images.shape[2:]
        for step, last in self._blocks(start, stop):
            epoch, shares = self.plan.at(step)[0], [self.plan.at(s)[1] for s in range(step, last)]
            here = torch.cat(shares).to(self.images.device)
            draws = self.recipe.draw(self.plan.seed, epoch, here, height, width)
            for at, indices in zip(range(0, len(here), len(shares[0])), shares, strict=True):
                rows = slice(at, at + len(indices))
                views = self.recipe.render(self.images[here[rows]], [draw[rows] for draw in draws])
                yield Batch(views, indices, None if self.labels is None else self.labels[indices], epoch)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The steps from start to stop, cut at the ends of epochs and into `AHEAD` images at most."""
        an_epoch = self.plan.steps_an_epoch
        count = max(1, AHEAD * self.plan.world.size // self.plan.batch_size)
        while start < stop:
            last = min(stop, start + count, (start // an_epoch + 1) * an_epoch)
            yield start, last
            start = last


class StreamLoader:
    """A split on disk: worker processes decode and crop, all else is done for the whole batch on the device.

    For a file that cannot be read its neighbour stands in (`Streamed.readable`); `skipped` says which and why.
    """

    def __init__(self, split: Streamed, recipe: Recipe, plan: Plan, channels: int, workers: int):
        self.split, self.recipe, self.plan, self.channels, self.workers = split, recipe, plan, channels, workers
        self.skipped: dict[str, str] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        from vision import resize  # noqa: F401 compiled here, so that worker processes inherit it

        device = self.plan.world.device
        crops_of = _Crops(self.split, self.recipe, self.plan, start, stop, through_pipes=self._through_pipes())
        for crops in items(crops_of, self.workers, pin_memory=device.type == "cuda"):
            if isinstance(crops, str):
                raise ValueError(crops)
            crops = crops.tensors()
            self.skipped.update(crops.skipped)
            refuse_many(self.skipped, len(self.split), self.split.max_corrupt)
            draws = self.recipe.draw(self.plan.seed, crops.epoch, crops.asked, 1, 1)  # as in the worker
            views = [fit_channels(c.to(device, non_blocking=True), self.channels) for c in crops.views]
            labels = None if self.split.labels is None else self.split.labels[crops.used]
            yield Batch(self.recipe.render(views, draws), crops.used, labels, crops.epoch)


    def _through_pipes(self) -> bool:
        """Does shared memory lack room for the batches that workers hold ready? Then they are copied through pipes."""
        if not self.workers:
            return False
        world, batch = self.plan.world, self.plan.batch_size // self.plan.world.size
        a_batch = batch * sum(3 * view.size**2 for view in self.recipe.views)
        free = shared_memory_short(needed := a_batch * (2 * self.workers + 2) * world.local_size)
        if free is not None:
            say(f"note: /dev/shm has {free / 1e6:,.0f} MB free, and batches may take {needed / 1e6:,.0f}: they are copied "
                "through pipes, which is slower (in a container, --shm-size=8g makes it larger)")
        return free is not None


class Crops(NamedTuple):
    """What a worker hands over: one step's crops, resized."""

    epoch: int
    asked: Tensor  # B int64: the images whose turn it is; they choose the random numbers
    used: Tensor  # B int64: the images that are here
    views: list[Tensor]  # V tensors B,3,S,S uint8
    skipped: dict[str, str]

    def arrays(self) -> "Crops":
        """With NumPy arrays, which travel through a pipe; tensors travel through shared memory."""
        return self._replace(asked=self.asked.numpy(), used=self.used.numpy(), views=[view.numpy() for view in self.views])

    def tensors(self) -> "Crops":
        """With tensors, which share the arrays' memory."""
        asked, used, *views = map(torch.as_tensor, (self.asked, self.used, *self.views))
        return self._replace(asked=asked, used=used, views=views)


class _Crops(Dataset):
    """Item i: the crops of step start + i, or in words why there cannot be any. Runs in a worker process."""

    def __init__(self, split: Streamed, recipe: Recipe, plan: Plan, start: int, stop: int, through_pipes: bool = False):
        self.split, self.recipe, self.plan, self.start, self.stop = split, recipe, plan, start, stop
        self.through_pipes = through_pipes
        sizes = [view.size / view.crop[0] ** 0.5 for view in recipe.views]
        self.at_least = round(max(sizes))  # so that the smallest crop still has a view's pixels

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Crops | str:
        known = len(self.split.skipped)
        try:
            epoch, asked, used, views = self._crop(*self.plan.at(self.start + i))
        except ValueError as error:  # a worker's exceptions arrive with its traceback, this one is the user's to read
            return str(error)
        crops = Crops(epoch, asked, used, views, dict(islice(self.split.skipped.items(), known, None)))
        return crops.arrays() if self.through_pipes else crops

    def _crop(self, epoch: int, asked: Tensor) -> tuple[int, Tensor, Tensor, list[Tensor]]:
        used, sizes = torch.empty_like(asked), [view.size for view in self.recipe.views]
        views = [torch.empty(len(asked), 3, S, S, dtype=torch.uint8) for S in sizes]
        waiting: list[tuple[int, Image.Image]] = []  # decoded, to be cut together: parameters for many cost little more
        for row, index in enumerate(asked.tolist()):
            image, used[row] = self.split.readable(index, self.at_least)
            waiting.append((row, image))
            if row + 1 == len(asked) or sum(i.width * i.height for _, i in waiting) > AT_ONCE:
                self._cut(epoch, asked, waiting, views)
                waiting.clear()
        return epoch, asked, used, views

    def _cut(self, epoch: int, asked: Tensor, waiting: list[tuple[int, Image.Image]], views: list[Tensor]) -> None:
        """Write the crops of these images into their rows of `views`."""
        rows = [row for row, _ in waiting]
        height, width = torch.tensor([(image.height, image.width) for _, image in waiting]).T
        draws = self.recipe.draw(self.plan.seed, epoch, asked[rows], height, width)
        for i, (row, image) in enumerate(waiting):
            pixels = np.asarray(image)  # H,W,3
            for view, draw in zip(views, draws, strict=True):
                crop_resize(image, pixels, draw.box[i].tolist(), view[row])


def crop_resize(image: Image.Image, pixels: np.ndarray, box: list[int], out: Tensor) -> None:
    """torchvision's resized_crop of a PIL image, to the bit.  pixels: the image as H,W,3; out: 3,S,S uint8."""
    from vision import resize  # on first use: importing numba takes half a second

    top, left, height, width = box
    if resize.columns_first(height, width, out.shape[-1]):
        resize.crop_resize(pixels, top, left, height, width, out.numpy())
    else:
        crop = image.crop((left, top, left + width, top + height)).resize(out.shape[1:], Image.Resampling.BILINEAR)
        out.copy_(torch.from_numpy(np.array(crop)).permute(2, 0, 1))


def loader(
    split: Images | Streamed, recipe: Recipe, plan: Plan, channels: int, workers: int = 0
) -> MemoryLoader | StreamLoader:
    """The loader that fits the split: images in memory, or files."""
    if isinstance(split, Images):
        return MemoryLoader(split, recipe, plan, channels)
    return StreamLoader(split, recipe, plan, channels, workers)
