"""What a folder of images holds, from its listing and the heads of a few files: no pixel is decoded."""
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vision.folder import files_to_train_on
from vision.store import StoreSettings, located
from vision.streamed import Streamed

SAMPLED = 64  # files whose heads are read, evenly spread


@dataclass(frozen=True)
class Survey:
    images: int
    classes: int  # 0: no labels
    side: int | None  # median of the shorter sides, pixels; None where Pillow opens none of the sampled files


def survey_of(data: Mapping[str, Any]) -> Survey:
    """Of the folder that the data settings name; as `survey`."""
    return survey(located(data["root"]) if data["root"] else None, data["labels"] or "auto", StoreSettings.of(data))


def survey(root: str | Path | None, labels: str = "auto", store: StoreSettings | None = None) -> Survey:
    """Raises ValueError, one line, where the folder cannot be read or holds no image."""
    files, classes = files_to_train_on(root, labels, store)
    count = min(SAMPLED, len(files))
    sides = [_side(files, i * len(files) // count) for i in range(count)]
    known = [side for side in sides if side]
    return Survey(len(files), classes, int(statistics.median_low(known)) if known else None)


def _side(files: Streamed, index: int) -> int:
    try:
        with files._open(int(files.rows[index])) as file, Image.open(file) as image:
            return min(image.size)
    except Exception:  # a broken file makes Pillow raise nearly anything; reading the images will say why
        return 0
