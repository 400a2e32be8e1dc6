"""Images a second through SimCLR's augmentation: lightly's SimCLRTransform in a DataLoader against ours.

    uv run python -m experiments.speed.augment --keep

Both make two views by the S recipe from uint8 images in memory and end in a normalised float batch. lightly: PIL images,
one worker process a core, its own defaults (blur off at 32 pixels would favour it; its blur stays on, as its docs use it).
Ours: the loader that ssl.pretrain uses, on `--device`.
"""
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from core.distributed import session
from experiments.speed.side_by_side import arguments, compare, report
from vision.augment import Recipe
from vision.datasets import Images
from vision.loaders import MemoryLoader, Plan

STRONG = dict(crop=(0.08, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2, blur=0.5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lightly(Dataset):
    def __init__(self, images: np.ndarray, size: int):
        from lightly.transforms import SimCLRTransform

        self.images, self.transform = images, SimCLRTransform(input_size=size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index]))


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        images=(4096, "images a round"),
        batch=(256, "images a batch"),
        size=(32, "pixels a side"),
        workers=(2, "lightly's worker processes"),
    )
    size, count, batch = settings.size, settings.images, settings.batch
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with session(settings.device) as world:
        peer_loader = DataLoader(
            Lightly(pixels, size), batch, shuffle=True, num_workers=settings.workers, drop_last=True, persistent_workers=True
        )
        split = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
        plan = Plan(count, batch, 0, world)
        ours_loader = MemoryLoader(split, Recipe(size, MEAN, STD, **STRONG), plan, 3)

        def peer() -> int:
            return sum(len(views[0].to(world.device)) for views in peer_loader)

        def ours() -> int:
            done = sum(len(b.views[0]) for b in ours_loader.batches(0, plan.steps_an_epoch))
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            return done

        cases = {f"two {size}×{size} views, batch {batch}": compare(peer, ours, settings.rounds)}
    report("augment", "images/s", cases, settings)


if __name__ == "__main__":
    main()
