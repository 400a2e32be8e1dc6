"""Write the gallery that `deploy.serve --gallery` searches for neighbors: training images as files."""
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import RunError
from linear_eval.features import evenly
from vision.geometry import Geometry
from vision.splits import Dataset

NAMED = 4  # classes in a folder's name, at most


def write_gallery(data: Dataset, folder: Path, count: int, size: Geometry | None = None) -> None:
    """Write `count` training images, evenly spaced, as PNG files in one folder per class, or per set of classes where an
    image may have several; without labels in one.

    size: the encoder's input; a file of that size is not resized again, so its features equal those of evaluation.
    None: the images' own size.  The folder gets its name after every file was read back. Raises RunError where one differs.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for index in evenly(len(data.train), count):
            pixels = data.train.resized(index[None], size or data.image_size)[0].permute(1, 2, 0).numpy()  # H,W,C
            name = _folder(data, int(index))
            path = temporary / name / f"{int(index):06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path)
            with Image.open(path) as image:
                if not np.array_equal(np.asarray(image).reshape(pixels.shape), pixels):
                    raise RunError(f"{folder}: {path.name} was not read as it was written; is the disk in order?")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folder(data: Dataset, index: int) -> str:
    """Of a training image the folder that it is written to."""
    if data.classes is None or data.train.labels is None:
        return "images"
    label = data.train.labels[index]
    if not data.multilabel:
        return data.classes[int(label)].replace("/", "-")
    some = [data.classes[k].replace("/", "-") for k in label.nonzero().flatten().tolist()]
    return "+".join(some[:NAMED]) + ("+…" if len(some) > NAMED else "") or "none"
