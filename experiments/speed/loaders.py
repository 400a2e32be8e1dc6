"""Images a second that our loaders give two views of, as workers and threads are added. No peer: ours against itself.

    uv run python -m experiments.speed.loaders --keep

StreamLoader: a folder of photographs, JPEGs of 500×375 pixels, at 224 pixels, with 0, 1, 2, 4 … worker
processes up to one a core, against one. MemoryLoader: 32 pixels, with 1, 2, 4 … threads, against one. A round includes
the start of the workers.
"""
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from core.machine import cores
from core.processes import World, session
from experiments.speed.augment import HEIGHT, MEAN, STD, STRONG, WIDTH, photographs
from experiments.speed.side_by_side import arguments, compare, report, skip
from vision import datasets
from vision.augment import Augmentation
from vision.loaders import BatchSampler, MemoryLoader, StreamLoader
from vision.splits import Images


def doubling(top: int) -> list[int]:
    """1, 2, 4, … and the top itself.  6 → [1, 2, 4, 6]"""
    return sorted({2**i for i in range(top.bit_length())} | {top})


def drain(loader, steps: int, device: torch.device, threads: int | None = None) -> int:
    with limited(threads) if threads else nullcontext():
        done = sum(len(batch.indices) for batch in loader.batches(0, steps))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return done


@contextmanager
def limited(threads: int):
    """So many threads inside, of torch and of the augmentation kernel, which asks torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)


def streamed(settings, world: World) -> dict[str, dict]:
    size, batch, count = settings.size, settings.batch, settings.images
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), count)
        split = datasets.load("folder", folder, labels="none").pretrain
        plan = BatchSampler(len(split), min(batch, len(split)), 0, world)

        def work(workers: int):
            loader = StreamLoader(split, Augmentation(size, MEAN, STD, **STRONG), plan, 3, workers)
            return lambda: drain(loader, plan.steps_an_epoch, world.device)

        return {
            f"folder of {WIDTH}×{HEIGHT} JPEGs, two views at {size} px, {n} workers": compare(
                work(1), work(n), settings.rounds, against="ours, 1 worker"
            )
            for n in (0, *doubling(cores())[1:])
        }


def in_memory(settings, world: World) -> dict[str, dict]:
    if cores() == 1 or world.device.type == "cuda":
        skip("loaders, threads of MemoryLoader", "needs two cores, and views that are made on a CPU")
        return {}
    count, size = settings.small_images, 32
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    plan = BatchSampler(count, min(256, count), 0, world)
    loader = MemoryLoader(Images(pixels), Augmentation(size, MEAN, STD, **STRONG), plan, 3)

    def work(threads: int):
        return lambda: drain(loader, plan.steps_an_epoch, world.device, threads)

    return {
        f"images in memory, two views at {size} px, {n} threads": compare(
            work(1), work(n), settings.rounds, against="ours, 1 thread"
        )
        for n in doubling(cores())[1:]
    }


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        images=(1024, "JPEGs a round", 12),
        size=(224, "pixels a side of the streamed views", 32),
        batch=(64, "images a streamed batch", 4),
        small_images=(8192, "images in memory", 64),
    )
    with session(settings.device) as world:
        cases = streamed(settings, world) | in_memory(settings, world)
    report("loaders", "images/s", cases, settings)


if __name__ == "__main__":
    main()
