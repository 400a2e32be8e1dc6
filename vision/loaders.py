"""Data + augmentation + processes → batches.

Global batch g of an epoch is the same set of images at any number of processes: one seeded order, cut into batches,
each cut among the processes in turn. What a step sees is a function of its number, so a loader can start at any step.
"""
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from core import counter_rng
from core.errors import RunError
from core.image_size import sides
from core.method import Batch
from core.processes import World
from core.run import log_line
from vision import joint
from vision.augment import Augmentation
from vision.color_image import ColorImage
from vision.encoders import fit_channels
from vision.mirror import Ahead, Mirror
from vision.order import Windows
from vision.raster_split import BandImage
from vision.shards import Shards
from vision.splits import Images
from vision.streamed import Streamed, refuse_many
from vision.view_params import ViewParams, concatenate
from vision.workers import items, shared_memory_short

AHEAD = 16_384  # images whose parameters are sampled at once: hundreds of operations, which cost a GPU as much for a few
AT_ONCE = 4_000_000  # decoded pixels that a worker holds at most before it cuts its crops, or one image


class BatchSampler:
    """Which images make step s on this process."""

    def __init__(
        self, images: int, batch_size: int, seed: int, world: World, labels: Tensor | None = None,
        windows: Windows | None = None,
    ):
        """labels: those of the images, where classes are to be equally frequent (`counter_rng.balanced`). windows: within
        which the order is random (`Streamed.windows`)."""
        if batch_size < 1 or batch_size % world.size:
            raise ValueError(f"batch_size={batch_size} does not divide among {world.size} processes")
        if batch_size > images:
            raise ValueError(f"batch_size={batch_size} is larger than the data: {images} images to train on")
        if labels is not None and windows is not None:
            raise ValueError("data.window: classes that are equally frequent are drawn from all images; leave data.window out")
        self.images, self.batch_size, self.seed, self.world, self.labels = images, batch_size, seed, world, labels
        self.windows = windows
        self.steps_an_epoch = images // batch_size
        self._orders: dict[int, Tensor] = {}  # of the epoch at hand and of the next one, whose images are fetched ahead

    def at(self, step: int) -> tuple[int, Tensor]:
        """(epoch, indices of this process's share of the global batch: B int64)."""
        epoch, batch = divmod(step, self.steps_an_epoch)
        if epoch not in self._orders:
            self._orders = {near: order for near, order in self._orders.items() if abs(near - epoch) == 1}
            self._orders[epoch] = self._shuffled(epoch)
        share = self.batch_size // self.world.size
        start = batch * self.batch_size + self.world.rank * share
        return epoch, self._orders[epoch][start : start + share]

    def _shuffled(self, epoch: int) -> Tensor:
        if self.labels is not None:
            return counter_rng.balanced(self.seed, epoch, self.labels)
        if self.windows is not None:
            return self.windows.permutation(self.seed, epoch)
        return counter_rng.permutation(self.seed, epoch, self.images)


class MemoryLoader:
    """A split held in memory: uint8 on the device, every view made there."""

    def __init__(
        self, split: Images, augmentation: Augmentation, sampler: BatchSampler, channels: int, graph: bool = False
    ):
        self.images = fit_channels(split.images, channels).to(sampler.world.device)
        self.labels = None if split.labels is None else split.labels.to(sampler.world.device)
        self.augmentation, self.sampler, self.graph = augmentation, sampler, graph
        self.skipped: dict[str, str] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        render = joint.recorded(self.augmentation) if self.graph else self.augmentation.render
        seed, (height, width) = self.sampler.seed, self.images.shape[2:]
        for first, last in self._blocks(start, stop):
            epoch, shares = self.sampler.at(first)[0], [self.sampler.at(s)[1] for s in range(first, last)]
            block = torch.cat(shares).to(self.images.device)
            params = self.augmentation.sample_params(seed, epoch, block, height, width)
            for step, indices in enumerate(shares, first):
                begin = (step - first) * len(indices)
                rows = slice(begin, begin + len(indices))
                mine, chosen = [view[rows] for view in params], block[rows]
                images = self.images[chosen]
                views, clean = render(images, mine), self.augmentation.render_clean(images, mine)
                labels = None if self.labels is None else self.labels[chosen]
                yield Batch(views, indices, labels, epoch, step, seed, [view.boxes() for view in mine], clean)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The steps from start to stop, cut at the ends of epochs and into `AHEAD` images at most."""
        an_epoch = self.sampler.steps_an_epoch
        count = max(1, AHEAD * self.sampler.world.size // self.sampler.batch_size)
        while start < stop:
            last = min(stop, start + count, (start // an_epoch + 1) * an_epoch)
            yield start, last
            start = last


class StreamLoader:
    """A split on disk: worker processes decode and crop, all else is done for the whole batch on the device.

    For a file that cannot be read its neighbor stands in (`Streamed.readable`); `skipped` holds it and the reason.
    """

    def __init__(self, split: Streamed, augmentation: Augmentation, sampler: BatchSampler, channels: int, workers: int):
        refuse_order(split, sampler)
        self.split, self.augmentation, self.sampler = split, augmentation, sampler
        self.channels, self.workers = channels, workers
        self.skipped: dict[str, str] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        from vision import resize  # noqa: F401 compiled here, so that worker processes inherit it

        device, seed = self.sampler.world.device, self.sampler.seed
        steps = _CroppedSteps(self.split, self.augmentation, self.sampler, range(start, stop), self._through_pipes())
        forked = not self.split.access.remote
        for step, cropped in enumerate(items(steps, self.workers, device.type == "cuda", forked), start):
            if isinstance(cropped, (ValueError, RunError)):
                raise cropped
            cropped = cropped.tensors()
            self.skipped.update(cropped.skipped)
            refuse_many(self.skipped, len(self.split), self.split.max_corrupt)
            crops = [fit_channels(view.to(device, non_blocking=True), self.channels) for view in cropped.views]
            count = len(cropped.params)
            views = self.augmentation.render(crops[:count], cropped.params)
            clean = self.augmentation.render_clean(crops[count:], cropped.params)
            labels = self.split.labels
            labels = None if labels is None else labels[cropped.indices].to(device, non_blocking=True)
            boxes = [params.boxes().to(device, non_blocking=True) for params in cropped.params]
            yield Batch(views, cropped.indices, labels, cropped.epoch, step, seed, boxes, clean)

    def _through_pipes(self) -> bool:
        """Whether batches are copied through pipes, because shared memory lacks room for those that workers hold ready."""
        if not self.workers:
            return False
        world, batch = self.sampler.world, self.sampler.batch_size // self.sampler.world.size
        pixel = self.split.channels * self.split.dtype.itemsize
        a_batch = batch * sum(pixel * math.prod(sides(size)) for size, _ in self.augmentation.crops)
        free = shared_memory_short(needed := a_batch * (2 * self.workers + 2) * world.local_size)
        if free is not None:
            log_line(f"note: /dev/shm has {free / 1e6:,.0f} MB free, and batches may take {needed / 1e6:,.0f}: they are copied "
                "through pipes, which is slower (in a container, --shm-size=8g makes it larger)")
        return free is not None


class CroppedBatch(NamedTuple):
    """What a worker hands over: one step's crops, resized, and the parameters of their views, sampled once."""

    epoch: int
    indices: Any  # B int64: the images that are in it; a neighbor stands in for a file that cannot be read
    views: list[Any]  # a tensor for each of `Augmentation.crops`: B,3,h,w uint8, or B,C,h,w float32
    params: list[ViewParams]
    skipped: dict[str, str]

    def arrays(self, views_too: bool) -> "CroppedBatch":
        """With NumPy arrays, which travel through a pipe; each tensor would take shared memory and a file descriptor."""
        views = [view.numpy() for view in self.views] if views_too else self.views
        return self._replace(indices=self.indices.numpy(), views=views, params=[p.map(Tensor.numpy) for p in self.params])

    def tensors(self) -> "CroppedBatch":
        """With tensors, which share the arrays' memory."""
        indices, *views = map(torch.as_tensor, (self.indices, *self.views))
        return self._replace(indices=indices, views=views, params=[p.map(torch.as_tensor) for p in self.params])


class _CroppedSteps(Dataset):
    """Item i: the crops of step steps[i], or the error for which there cannot be any. Runs in a worker process."""

    def __init__(
        self, split: Streamed, augmentation: Augmentation, sampler: BatchSampler, steps: range, through_pipes: bool = False
    ):
        self.split, self.augmentation, self.sampler, self.steps = split, augmentation, sampler, steps
        self.through_pipes = through_pipes
        sizes = [max(sides(size)) / augmentation.views[i].crop[0] ** 0.5 for size, i in augmentation.crops]
        self.at_least = round(max(sizes))  # so that the smallest crop still has a view's pixels
        windows = sampler.windows if split.access.remote else None
        self.ahead = None if windows is None else Ahead(max(1, windows.images // sampler.batch_size))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, i: int) -> CroppedBatch | ValueError | RunError:
        before = len(self.split.skipped)
        try:
            epoch, indices = self.sampler.at(self.steps[i])
            self.split.ready(indices)
            if self.ahead is not None and self.steps[i] + self.ahead.steps < self.steps.stop:
                self.ahead.fetch(self.split, self.sampler.at(self.steps[i] + self.ahead.steps)[1])
            used, views, params = self._crop(epoch, indices)
        except ValueError as error:  # a worker's exceptions arrive with its traceback, this one is the user's to read
            return ValueError(str(error))
        except RunError as error:
            return error
        skipped = dict(islice(self.split.skipped.items(), before, None))
        return CroppedBatch(epoch, used, views, params, skipped).arrays(views_too=self.through_pipes)

    def _crop(self, epoch: int, indices: Tensor) -> tuple[Tensor, list[Tensor], list[ViewParams]]:
        """The indices of the images that can be read, every view's crops, and its parameters."""
        used, sizes = torch.empty_like(indices), [size for size, _ in self.augmentation.crops]
        views = [torch.empty(len(indices), self.split.channels, *sides(S), dtype=self.split.dtype) for S in sizes]
        groups: list[list[ViewParams]] = []
        waiting: list[ColorImage | BandImage] = []  # decoded, to be cut together: parameters for many cost little more
        for row, index in enumerate(indices.tolist()):
            image, used[row] = self.split.croppable(index, self.at_least)
            waiting.append(image)
            if row + 1 == len(indices) or sum(i.width * i.height for i in waiting) > AT_ONCE:
                rows = slice(row + 1 - len(waiting), row + 1)
                groups.append(self._cut(epoch, indices[rows], waiting, [view[rows] for view in views]))
                waiting.clear()
        return used, views, [concatenate(list(parts)) for parts in zip(*groups, strict=True)]

    def _cut(
        self, epoch: int, indices: Tensor, images: list[ColorImage | BandImage], views: list[Tensor]
    ) -> list[ViewParams]:
        """Write these images' crops into `views`.  indices: those that choose the random numbers."""
        height, width = torch.tensor([(image.height, image.width) for image in images]).T
        params = self.augmentation.sample_params(self.sampler.seed, epoch, indices, height, width)
        for i, image in enumerate(images):
            for view, (_, number) in zip(views, self.augmentation.crops, strict=True):
                image.crop_resize(params[number].box[i].tolist(), view[i])
        return params


def refuse_order(split: Streamed, sampler: BatchSampler) -> None:
    """ValueError where images are drawn from all of an object store that the cache on disk cannot hold."""
    access = split.access
    if isinstance(access, Mirror) and sampler.windows is None and isinstance(split, Shards):
        total = sum(access.size(path) for path in split.paths)
        if total > access.cache.budget:
            raise ValueError(f"data.cache={access.cache.budget / 1e9:g} GB cannot hold the {total / 1e9:.3g} GB of shards in "
                             f"{access.store.url}, and each batch is drawn from all of them: they would be fetched many times "
                             f"an epoch; set data.window=8 (images are shuffled among 8 shards at a time), or data.cache="
                             f"{total / 1e9 * 1.05:.1f}")


def loader(
    split: Images | Streamed, augmentation: Augmentation, sampler: BatchSampler, channels: int, workers: int = 0,
    graph: bool = False,
) -> MemoryLoader | StreamLoader:
    """The loader that fits the split: images in memory, or files.  graph: render images in memory as a CUDA graph"""
    if isinstance(split, Images):
        return MemoryLoader(split, augmentation, sampler, channels, graph)
    return StreamLoader(split, augmentation, sampler, channels, workers)
