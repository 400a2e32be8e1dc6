"""What errors are divided by: AlexNet's published ones, those of raw pixels on the same images, or another run's."""
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core import cli
from linear_eval.robustness.sample import Sample
from linear_eval.robustness.settings import ALEXNET, AUTO, PIXELS
from vision.corruptions import CORRUPTIONS
from vision.splits import Dataset

# Mean top-1 errors over five severities on ImageNet-C, in the order of CORRUPTIONS (arXiv 1903.12261, its published code).
ALEXNET_ERRORS = dict(zip(CORRUPTIONS, (
    88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7, 84.5, 78.7, 71.8, 65.8,
), strict=True))  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """about: what it is, to people. Its errors are constants, or those of the head at a position."""

    about: str
    constants: dict[str, float] | None = None  # corruption → mean error over severities, in %
    head: int = -1

    def errors(self, sample: Sample, names: Sequence[str]) -> np.ndarray:
        """→ …,corruptions, or corruptions alone of constants"""
        if self.constants is not None:
            return np.array([self.constants[name] for name in names])
        return sample.errors(names)[..., self.head, :]


def kind_of(reference: str, dataset: Dataset, shape: tuple[int, int, int]) -> str:
    """What `reference` means for these images: alexnet, pixels or a file.  shape: channels, height, width

    Raises ValueError where AlexNet's errors do not apply.
    """
    fits = shape == (3, 224, 224) and is_imagenet(dataset.classes or ())
    if reference == ALEXNET and not fits:
        raise ValueError("reference=alexnet: its errors are published for ImageNet's 1,000 classes (folders n01440764, …) in "
                         "color at 224 px alone; use pixels, or another run's results.json")
    return (ALEXNET if fits else PIXELS) if reference == AUTO else reference


def is_imagenet(classes: Sequence[str]) -> bool:
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def of_run(path: str, data: str, side: int, images: int, names: Sequence[str]) -> Reference:
    """Another run's encoder, by its head that is best on validation.  Raises ValueError where it is of other images."""
    try:
        content = json.loads(cli.expand(path).read_text("utf-8"))
        row = max((one for one in content["rows"] if one["source"] == "encoder"), key=lambda one: one["validation"])
        errors = {one["corruption"]: float(one["error"]) for one in row["corruptions"]}
        its = content["data"]["name"], content["side"], content["images"]
        about = f"{content['encoder']['source']} by {row['method']} ({path})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"reference={path}: is no results.json of linear_eval.robustness ({type(error).__name__}); give one, "
                         "or pixels") from None
    if its != (data, side, images):
        raise ValueError(f"reference={path}: is of {its[0]}, {its[2]:,} images at {its[1]} px, and this is {data}, {images:,} "
                         f"images at {side} px; give a run of the same, or pixels")
    if absent := [name for name in names if name not in errors]:
        raise ValueError(f"reference={path}: has no {absent[0]}; give a run with it, or leave it out of corruptions")
    return Reference(about, errors)
