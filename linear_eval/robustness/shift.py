"""Another data set of the same classes: its test images, by the heads of the first one."""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core import cli
from linear_eval.features import Source, collect
from linear_eval.robustness.heads import Head
from linear_eval.robustness.results import ShiftScore
from linear_eval.robustness.sample import resampled
from linear_eval.robustness.settings import TOOL, RobustnessSettings
from linear_eval.samples import at_most
from vision.data import build_data
from vision.splits import Dataset


@dataclass(frozen=True)
class Shifted:
    """dataset: the other one; place: of each of its classes the number that the first data set gives it; channels: of the
    first one's images, which raw pixels are compared in
    """

    name: str
    dataset: Dataset
    place: np.ndarray
    channels: int


def load_shifted(settings: RobustnessSettings, dataset: Dataset) -> Shifted | None:
    """Raises ValueError where it has other classes, or no test images."""
    if settings.shifted is None:
        return None
    known = settings.shifted in TOOL.choices("data")
    changes = {"data": settings.shifted} if known else {"data": "folder", "data.root": settings.shifted}
    other = build_data(cli.derive(TOOL, settings, drop=["data", "image_size", "shifted"], changes=changes))
    named = f"shifted={settings.shifted}"
    if other.multilabel or not other.classes or not len(other.test):
        raise ValueError(f"{named}: has no test images with one label each; give a data set of the classes of {dataset.name}")
    if strange := [name for name in other.classes if name not in dataset.classes]:
        raise ValueError(f"{named}: its class {strange[0]} is none of {dataset.name}'s; give a data set of the same classes")
    if other.channels != dataset.channels and not {other.channels, dataset.channels} <= {1, 3}:
        raise ValueError(f"{named}: its images have {other.channels} channels, and {dataset.name}'s {dataset.channels}")
    place = np.array([dataset.classes.index(name) for name in other.classes])
    return Shifted(settings.shifted, other, place, dataset.channels)


def shift_scores(
    shifted: Shifted, sources: Sequence[Source], heads: Sequence[Head], clean: np.ndarray, settings: RobustnessSettings,
    device: torch.device,
) -> list[ShiftScore]:
    """A score a head.  clean: heads, accuracies in % on the first data set's test images"""
    test = at_most(shifted.dataset.test, settings.images or len(shifted.dataset.test))
    cache = None if settings.cache == "none" else cli.expand(settings.cache)
    fitting = [replace(one, channels=one.channels or shifted.channels) for one in sources]
    features = {one.name: collect(one, test, device, cache, f"{one.name}: {shifted.name}") for one in fitting}
    scores = []
    for head, before in zip(heads, clean, strict=True):
        found = features[head.source]
        right = head.predict(found.x) == shifted.place[found.labels]
        accuracy = 100 * float(right.mean())
        ends = np.percentile(resampled(right[None], settings.protocol.bootstrap.resamples, settings.seed), [2.5, 97.5])
        scores.append(ShiftScore(shifted.name, len(right), accuracy, ends.tolist(), float(before) - accuracy))
    return scores
