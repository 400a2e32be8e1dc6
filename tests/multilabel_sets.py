"""A folder of images with several labels each: mosaics of crops of scikit-image's photographs."""
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

CLASSES = ("astronaut", "cat", "coffee", "rocket")
PICTURES = dict(zip(CLASSES, (data.astronaut, data.chelsea, data.coffee, data.rocket), strict=True))


def mosaics(root: Path, count: int = 120, side: int = 32, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Images of four tiles from one to three photographs; mosaics.csv names what is in each.  → name → its classes"""
    rng = np.random.default_rng(seed)
    pixels = {name: read() for name, read in PICTURES.items()}
    labels = {}
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        some = tuple(sorted(rng.choice(CLASSES, 1 + i % 3, replace=False, p=[0.4, 0.3, 0.2, 0.1]).tolist()))
        tiles = [some[t % len(some)] for t in range(4)]
        image = np.empty((2 * side, 2 * side, 3), np.uint8)
        for t, name in enumerate(tiles):
            y, x = (int(rng.integers(0, n - side)) for n in pixels[name].shape[:2])
            top, left = side * (t // 2), side * (t % 2)
            image[top : top + side, left : left + side] = pixels[name][y : y + side, x : x + side]
        labels[f"{i:03d}.png"] = some
        Image.fromarray(image).save(root / f"{i:03d}.png")
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "labels"), *((name, ";".join(some)) for name, some in labels.items())])
    return labels
