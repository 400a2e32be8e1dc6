"""What is evaluated: patch features of every source and split. Runs on all processes."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from core import cli, training
from core.processes import World
from core.run import Run, log_line
from linear_eval.dense.estimate import estimate
from linear_eval.dense.patch_features import (
    SPLITS,
    Budget,
    PatchFeatures,
    PatchSource,
    Split,
    collect_patches,
    grid_of,
    of_encoder,
    unreadable,
    whole_images,
)
from linear_eval.dense.settings import MASKS, DenseSettings
from linear_eval.dense.sources import classical_sources, untrained_source
from linear_eval.fit import check_labels
from linear_eval.inputs import is_trained
from linear_eval.results import ENCODER
from vision.build import build_encoder, notes
from vision.data import build_data, build_segmentation, fingerprints, mask_fingerprints
from vision.multilabel import refuse
from vision.segmentation import Segmentation, SegmentationData
from vision.splits import Dataset

BLOCK = 16_384  # patches that are scored at a time, at most


@dataclass(frozen=True)
class SourceFeatures:
    """A source's patches of the three splits.  test: None where they are computed in passing"""

    patches: PatchSource
    train: PatchFeatures
    validation: PatchFeatures
    test: PatchFeatures | None

    @property
    def name(self) -> str:
        return self.patches.source.name

    @property
    def block(self) -> int:
        """Images that are scored at a time."""
        return max(1, BLOCK // self.patches.patches)

    def test_blocks(self, split: Split, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices B, patches B,h·w,D) of every test image that can be read."""
        if self.test is not None:
            yield from self.test.blocks(self.block)
            return
        at = 0
        for x in self.patches.blocks(split, device, f"{self.name}: test"):
            indices = np.setdiff1d(np.arange(at, at + len(x)), unreadable(split))
            for start in range(0, len(indices), self.block):
                some = indices[start : start + self.block]
                yield some, x[some - at]
            at += len(x)


@dataclass(frozen=True)
class DenseInputs:
    """What the main process scores.

    data: None where the data has no masks. sources: of one process collected one by one, as they are iterated over, so that the
    encoder's scores come first; of several all together, since the others then leave. notes: more of them may come meanwhile.
    """

    run: Run
    encoder: nn.Module
    dataset: Dataset
    data: SegmentationData | None
    grid: tuple[int, int]
    sources: Iterable[SourceFeatures]
    device: torch.device
    notes: list[str]

    @property
    def splits(self) -> dict[str, Segmentation]:
        return {name: self.data.split(name) for name in SPLITS}


def collect_inputs(settings: DenseSettings, world: World) -> DenseInputs:
    torch.manual_seed(settings.seed)
    data, dataset, images = _open(settings)
    run = Run(training.folder(settings, f"dense-{settings.data.name}", images), settings, images=images)
    if not len(dataset.validation) or not len(dataset.test):
        raise ValueError("data: there must be validation images, for settings to be chosen on, and test images")
    encoder, recipe = build_encoder(settings, dataset)
    grid = grid_of(encoder, f"encoder={settings.encoder}")
    run.begin()
    counts = {name: len(getattr(dataset, name)) for name in SPLITS}
    log_line(f"{encoder.spec.name}: {grid[0]} × {grid[1]} patches an image of {dataset.name}; "
             f"{counts['train']:,} training, {counts['validation']:,} validation, {counts['test']:,} test → {run.folder}")
    found = notes(encoder, settings, recipe) + ([] if is_trained(settings) else ["the encoder has random weights"])
    for note in found:
        log_line(f"note: {note}")
    moments = recipe.mean, recipe.std
    own = of_encoder(ENCODER, encoder, moments, whole_images(dataset.train, encoder.spec), world.device)
    classical = classical_sources(own, dataset.train)
    if world.rank == 0:
        log_line(estimate(settings, [own] * (1 + is_trained(settings)) + classical, counts, dataset.train))

    def described() -> Iterator[PatchSource]:
        yield own
        if is_trained(settings):
            yield untrained_source(encoder, moments, dataset.train, world.device, settings.seed)
        yield from classical

    sources = collected(settings, described(), dataset, world, found)
    return DenseInputs(run, encoder, dataset, data, grid, sources if world.size == 1 else list(sources), world.device, found)


def collected(
    settings: DenseSettings, sources: Iterable[PatchSource], dataset: Dataset, world: World, found: list[str]
) -> Iterator[SourceFeatures]:
    """Each source's patches, on the main process.  found: gets a note on what is left out"""
    counts = {name: len(getattr(dataset, name)) for name in SPLITS}
    cache = None if settings.cache == "none" else cli.expand(settings.cache)
    for patches in sources:
        budget = Budget.of(counts, patches.image_bytes, settings.budget)
        if budget.note:
            found.append(f"{patches.source.name}: {budget.note}")
            log_line(f"note: {found[-1]}")
        kept = {"train": budget.train, "validation": budget.validation, "test": counts["test"] if budget.test else 0}
        features = {
            name: collect_patches(patches, getattr(dataset, name), count, world.device, cache) if count else None
            for name, count in kept.items()
        }
        if world.rank == 0:
            yield SourceFeatures(patches, **features)


def _open(settings: DenseSettings) -> tuple[SegmentationData | None, Dataset, dict[str, str]]:
    """The data with masks, or for image labels without; its images; its fingerprints.

    Raises ValueError where a part needs what the data does not have.
    """
    masks = [part for part in settings.parts if part in MASKS]
    if masks and len(masks) < len(settings.parts):
        raise ValueError(f"parts={','.join(settings.parts)}: attentive needs image labels, {masks[0]} masks; give two commands")
    if not masks:
        dataset = build_data(settings)
        check_labels(dataset, settings.data.name)
        refuse(dataset.train.labels, "parts=attentive", "name other parts")
        return None, dataset, fingerprints(dataset)
    data = build_segmentation(settings)
    return data, data.dataset, fingerprints(data.dataset) | mask_fingerprints(data, "images.masks.")
