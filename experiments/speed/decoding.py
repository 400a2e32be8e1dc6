"""JPEG files as pretraining reads them (vision/color_image.py), against the same through a Pillow image.

    uv run python -m experiments.speed.decoding --keep

file: from file to array. loader: a training process that reads, crops and augments two views, without workers. Figures are
per second of the process's CPU time, so that a busy machine disturbs them less.
"""
import io
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from core.machine import cores
from core.processes import session
from experiments.speed.augment import HEIGHT, MEAN, STD, STRONG, WIDTH, photographs
from experiments.speed.side_by_side import arguments, compare, report
from vision import color_image, datasets
from vision.augment import Augmentation
from vision.decode import decode
from vision.loaders import BatchSampler, StreamLoader


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        images=(256, "JPEGs a round", 8),
        size=(224, "pixels a side of the views", 32),
    )
    settings.device = "cpu"
    with tempfile.TemporaryDirectory() as folder, session(settings.device) as world:
        photographs(Path(folder), settings.images)
        split = datasets.load("folder", folder, labels="none").pretrain
        files = [path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))]
        plan = BatchSampler(len(split), min(64, len(split)), 0, world)
        augmentation = Augmentation(settings.size, MEAN, STD, **STRONG)

        def read(one) -> int:
            for body in files:
                one(io.BytesIO(body))
            return len(files)

        def loaded(package) -> int:
            color_image.simplejpeg = package
            loader = StreamLoader(split, augmentation, plan, 3, 0)
            return sum(len(batch.indices) for batch in loader.batches(0, plan.steps_an_epoch))

        package = color_image.simplejpeg
        pairs = {
            "file": (partial(read, lambda file: np.asarray(decode(file))), partial(read, color_image.read_color)),
            f"loader, two views at {settings.size} px": (partial(loaded, None), partial(loaded, package)),
        }
        torch.set_num_threads(1)
        cases = {
            f"JPEGs of {WIDTH}×{HEIGHT}; {name}": compare(peer, ours, settings.rounds, "Pillow", time.process_time)
            for name, (peer, ours) in pairs.items()
        }
    busy = f"{os.getloadavg()[0]:.1f} processes at a time on {cores()} cores, others included"
    report("decoding", "images/s", cases, settings, {"clock": f"process CPU time; {busy}"})


if __name__ == "__main__":
    main()
