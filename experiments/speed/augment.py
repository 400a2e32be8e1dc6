"""Images a second through SimCLR's augmentation: lightly, torchvision v2 and kornia against ours.

    uv run python -m experiments.speed.augment --keep

All make two views by the S recipe and end in a normalised float batch. In memory: uint8 images. From files: a folder of
500×375 JPEGs of quality 90, decoding included, cut from scikit-learn's two photographs (china, flower), mirrored ones too.
lightly: its SimCLRTransform on PIL images. torchvision v2: the same chain on uint8 tensors, image by image. Both in a
DataLoader, one worker process a core, which stay alive between rounds. kornia: whole float batches in this process.
Ours: the loader that ssl.pretrain uses, on `--device`; from files with as many workers, started anew each round.
"""
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from core.machine import cores
from core.processes import session
from experiments.speed.side_by_side import arguments, compare, report, skip
from vision.augment import Augmentation
from vision.folder import scan
from vision.loaders import BatchSampler, MemoryLoader, StreamLoader
from vision.splits import Images

STRONG = dict(crop=(0.08, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2, blur=0.5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH, HEIGHT = 500, 375


class Peer(Dataset):
    """Images in memory (N,S,S,3 uint8) or files, through a transform in the worker.  as_tensor: it takes tensors."""

    def __init__(self, sources, transform, as_tensor: bool):
        self.sources, self.transform, self.as_tensor = sources, transform, as_tensor

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int):
        source = self.sources[index]
        if self.as_tensor:
            from torchvision.io import ImageReadMode, decode_image

            if isinstance(source, Path):
                return self.transform(decode_image(source, ImageReadMode.RGB))
            return self.transform(torch.from_numpy(source).permute(2, 0, 1))
        return self.transform(Image.open(source).convert("RGB") if isinstance(source, Path) else Image.fromarray(source))


def of_lightly(size: int):
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(input_size=size)


class OfTorchvision:
    """The S recipe in transforms v2 → two views, normalised."""

    def __init__(self, size: int):
        from torchvision.transforms import v2

        self.chain = v2.Compose([
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(2 * max(1, size // 20) + 1, (0.1, 2.0))], p=0.5),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __call__(self, image):
        return self.chain(image), self.chain(image)


def of_kornia(size: int):
    import kornia.augmentation as K

    taps = 2 * max(1, size // 20) + 1
    return K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)), K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5), K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
    )  # fmt: skip


def photographs(folder: Path, count: int) -> list[Path]:
    """`count` JPEGs, cut at places and scales spread over scikit-learn's sample photographs (640×427)."""
    from sklearn.datasets import load_sample_images

    rng, paths = np.random.default_rng(0), []
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        image = originals[i % len(originals)]
        width = rng.uniform(0.6, 1) * min(image.width, image.height * WIDTH / HEIGHT)
        height = width * HEIGHT / WIDTH
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        part = image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        paths.append(folder / f"{i:05}.jpg")
        (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 4 > 1 else part).save(paths[-1], quality=90)
    return paths


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        images=(4096, "images in memory a round", 64),
        batch=(256, "images a batch", 32),
        size=(32, "pixels a side of those", 32),
        files=(4096, "JPEGs a round: enough for the workers' start to count as little as in training", 64),
        file_batch=(128, "JPEGs a batch", 32),
        file_size=(224, "pixels a side of their views", 64),
        workers=(cores(), "worker processes"),
        only=("memory,files", "which cases, by comma"),
    )
    with session(settings.device) as world, TemporaryDirectory() as folder:
        cases = in_memory(settings, world) if "memory" in settings.only else {}
        cases |= from_files(settings, world, Path(folder)) if "files" in settings.only else {}
    report("augment", "images/s", cases, settings)


def in_memory(settings, world) -> dict[str, dict]:
    size, count, batch = settings.size, settings.images, settings.batch
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    loader = MemoryLoader(Images(images), Augmentation(size, MEAN, STD, **STRONG), BatchSampler(count, batch, 0, world), 3)
    peers = {name: through(Peer(pixels, *chain), batch, settings.workers, world) for name, chain in chains(size).items()}
    if importlib.util.find_spec("kornia"):
        augment, on_device = of_kornia(size).to(world.device), images.to(world.device)

        def kornia() -> int:
            for rows in torch.randperm(count).split(batch):
                x = on_device[rows.to(world.device)].float() / 255
                augment(x), augment(x)
            finish(world)
            return count

        peers["kornia"] = kornia
    else:
        skip("kornia", "it is not installed")
    case = f"two {size}×{size} views, batch {batch}"
    return against(peers, case, lambda: run(loader, world), settings.rounds)


def from_files(settings, world, folder: Path) -> dict[str, dict]:
    size, count, batch = settings.file_size, settings.files, settings.file_batch
    paths = photographs(folder, count)
    plan, recipe = BatchSampler(count, batch, 0, world), Augmentation(size, MEAN, STD, **STRONG)
    loader = StreamLoader(scan(folder).files, recipe, plan, 3, settings.workers)
    peers = {name: through(Peer(paths, *chain), batch, settings.workers, world) for name, chain in chains(size).items()}
    case = f"two {size}×{size} views of {WIDTH}×{HEIGHT} JPEGs, batch {batch}"
    return against(peers, case, lambda: run(loader, world), settings.rounds)


def chains(size: int) -> dict[str, tuple]:
    return {"lightly": (of_lightly(size), False), "torchvision v2": (OfTorchvision(size), True)}


def against(peers: dict, case: str, ours, rounds: int) -> dict[str, dict]:
    return {
        case if name == "lightly" else f"{case}; {name}": compare(peer, ours, rounds, against=name)
        for name, peer in peers.items()
    }


def through(dataset: Peer, batch: int, workers: int, world):
    """A peer's epoch in a DataLoader, its batches moved to the device."""
    loader = DataLoader(
        dataset, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0,
    )  # fmt: skip

    def epoch() -> int:
        done = 0
        for views in loader:
            on_device = [view.to(world.device) for view in views]
            done += len(on_device[0])
        finish(world)
        return done

    return epoch


def run(loader: MemoryLoader | StreamLoader, world) -> int:
    done = sum(len(b.views[0]) for b in loader.batches(0, loader.sampler.steps_an_epoch))
    finish(world)
    return done


def finish(world) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
