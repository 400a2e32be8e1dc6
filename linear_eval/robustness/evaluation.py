"""A robustness run from its settings to its results: data, features, heads, corrupted images, rows."""
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core import cli, training
from core.image_size import Size
from core.processes import session
from core.run import Run, log_line
from linear_eval.constants import changed_constants
from linear_eval.evaluation import data_facts, encoder_facts
from linear_eval.features import Source, collect, evenly, of_encoder, pixels_of, untrained_encoder
from linear_eval.fit import check_labels
from linear_eval.inputs import PIXELS, UNTRAINED, is_trained
from linear_eval.provenance import provenance
from linear_eval.results import ENCODER
from linear_eval.robustness import report
from linear_eval.robustness.heads import CleanFeatures, Head, knn_head, linear_head, logistic_head
from linear_eval.robustness.measure import SplitToCorrupt, corruption_hits
from linear_eval.robustness.reference import ALEXNET_ERRORS, Reference, kind_of, of_run
from linear_eval.robustness.results import Robustness
from linear_eval.robustness.scores import Hits, rows
from linear_eval.robustness.settings import ALEXNET, TOOL, RobustnessSettings
from linear_eval.robustness.settings import PIXELS as BY_PIXELS
from linear_eval.robustness.shift import Shifted, load_shifted, shift_scores
from linear_eval.samples import at_most
from vision.augment import Augmentation
from vision.build import build_encoder, notes
from vision.corruptions import CORRUPTIONS, SMALL, fitting
from vision.corruptions import check as check_corruption
from vision.data import build_data, fingerprints
from vision.geometry import Geometry
from vision.listing import counted
from vision.multilabel import refuse
from vision.splits import Dataset, Images
from vision.streamed import Streamed


@dataclass(frozen=True)
class RobustnessResult:
    folder: Path
    robustness: Robustness


@dataclass(frozen=True)
class Opened:
    """What a run works on.  size: at which images are corrupted; test: those of the test split that are looked at"""

    dataset: Dataset
    shifted: Shifted | None
    encoder: nn.Module
    recipe: Augmentation
    names: list[str]
    size: Size | Geometry
    test: Images | Streamed

    @property
    def sides(self) -> tuple[int, int]:
        geometry = Geometry.of(self.size)
        return geometry.height, geometry.width


def evaluate_robustness(settings: RobustnessSettings) -> RobustnessResult:
    """Writes results.json, report.md and report.html to the run's folder. A stopped run resumes after its last corruption.

    Raises ValueError where settings or data do not allow it.
    """
    with session(settings.device) as world:
        start, device = time.monotonic(), world.device
        torch.manual_seed(settings.seed)
        opened = open_all(settings)
        dataset, names, side = opened.dataset, opened.names, min(opened.sides)
        kind = kind_of(settings.reference, dataset, (dataset.channels, *opened.sides))
        known = None if kind in (ALEXNET, BY_PIXELS) else of_run(kind, dataset.name, side, len(opened.test), names)
        images = fingerprints(dataset)
        if opened.shifted:
            images |= {f"shifted.{name}": value for name, value in fingerprints(opened.shifted.dataset).items()}
        run = Run(training.folder(settings, f"robustness-{settings.data.name}", images), settings, images=images)
        run.begin()
        log_line(f"{opened.encoder.spec.name} on {dataset.name}: {len(names)} corruptions × 5 severities of "
                 f"{len(opened.test):,} test images at {side} px → {run.folder}")
        remarks = [*notes(opened.encoder, settings, opened.recipe), *left_out(dataset.channels)]
        for note in remarks:
            log_line(f"note: {note}")

        described = sources(settings, opened, device)
        features = clean_features(settings, opened, described, device)
        heads = fitted_heads(settings, features, len(dataset.classes), device)
        clean = np.stack([head.predict(features[head.source].test.x) == features[head.source].test.labels for head in heads])
        for head, right in zip(heads, clean, strict=True):
            log_line(f"{head.source}, {head.method}: {100 * right.mean():.1f} % of clean test images")
        readable = features[PIXELS].test
        positions = evenly(len(dataset.test), len(opened.test))[torch.from_numpy(readable.indices)]
        test = SplitToCorrupt(dataset.test, positions, readable.labels, opened.size)
        hits = Hits(clean, corruption_hits(test, names, described, heads, settings.seed, run.folder / "hits"))
        reference = known or default_reference(kind, heads)
        shifts = [None] * len(heads)
        if opened.shifted:
            shifts = shift_scores(opened.shifted, described, heads, 100 * clean.mean(1), settings, device)
        robustness = Robustness(
            protocol=settings.protocol["name"], protocol_changes=changed_constants(TOOL, cli.plain(settings.protocol)),
            encoder=encoder_facts(settings, opened.encoder), data=data_facts(dataset),
            images=len(positions), side=side, constants="CIFAR-C's" if side <= SMALL else "ImageNet-C's",
            mean_over=hits.mean_over, reference=reference.about, seed=settings.seed,
            seconds=round(time.monotonic() - start, 1), notes=remarks,
            rows=rows(heads, hits, reference, shifts, settings.protocol.bootstrap.resamples, settings.seed),
            **provenance(),
        )  # fmt: skip
        run.write("results.json", json.dumps(robustness.to_json(), indent=1) + "\n")
        report.write(run.folder, robustness)
        return RobustnessResult(run.folder, robustness)


def open_all(settings: RobustnessSettings) -> Opened:
    """Data and encoder.  Raises ValueError where they do not allow a run."""
    dataset = build_data(settings)
    refuse(dataset.train.labels, "linear_eval.robustness", "evaluate it with linear_eval.evaluate")
    check_labels(dataset, settings.data.name)
    if not len(dataset.validation):
        raise ValueError("data.validation=0: there must be validation images, for heads to be chosen on")
    names = chosen_corruptions(settings, dataset.channels)
    shifted = load_shifted(settings, dataset)
    encoder, recipe = build_encoder(settings, dataset)
    size = dataset.image_size if isinstance(dataset.test, Images) else encoder.spec.geometry
    test = at_most(dataset.test, settings.images or len(dataset.test))
    return Opened(dataset, shifted, encoder, recipe, names, size, test)


def default_reference(kind: str, heads: list[Head]) -> Reference:
    if kind == ALEXNET:
        return Reference("AlexNet, published for ImageNet-C", ALEXNET_ERRORS)
    pixels = next(i for i, head in enumerate(heads) if head.method == "logistic")
    return Reference("logistic regression on raw pixels, on the same images", head=pixels)


def left_out(channels: int) -> list[str]:
    absent = [name for name in CORRUPTIONS if name not in fitting(channels)]
    return [f"images of {counted(channels, 'channel')} have no {', '.join(absent)}"] if absent else []


def chosen_corruptions(settings: RobustnessSettings, channels: int) -> list[str]:
    """Raises ValueError for one that there is not, or not for so many channels, and where none is of the 15."""
    if list(settings.corruptions) == ["all"]:
        return fitting(channels)
    for name in settings.corruptions:
        try:
            check_corruption(name, 1, channels)
        except ValueError as error:
            raise ValueError(f"corruptions={name}: {str(error).partition(': ')[2]}") from None
    if all(CORRUPTIONS[name].extra for name in settings.corruptions):
        ours = ", ".join(name for name, one in CORRUPTIONS.items() if not one.extra)
        raise ValueError(f"corruptions={','.join(settings.corruptions)}: means are over the 15, so give one of {ours} too")
    return [name for name in CORRUPTIONS if name in settings.corruptions]


def sources(settings: RobustnessSettings, opened: Opened, device: torch.device) -> list[Source]:
    """The encoder, the same one untrained, and raw pixels."""
    train, encoder, mean, std = opened.dataset.train, opened.encoder, opened.recipe.mean, opened.recipe.std
    found = [of_encoder(ENCODER, encoder, mean, std, device)]
    if is_trained(settings):
        rival = untrained_encoder(encoder.spec, train, (mean, std), device, settings.seed)
        found.append(of_encoder(UNTRAINED, rival, mean, std, device))
    return [*found, Source(PIXELS, "", pixels_of, opened.size, dtype="float32")]


def clean_features(
    settings: RobustnessSettings, opened: Opened, described: list[Source], device: torch.device
) -> dict[str, CleanFeatures]:
    cache = None if settings.cache == "none" else cli.expand(settings.cache)
    splits = {"train": opened.dataset.train, "validation": opened.dataset.validation, "test": opened.test}
    return {
        source.name: CleanFeatures(**{
            name: collect(source, split, device, cache, f"{source.name}: {name}") for name, split in splits.items()
        })
        for source in described
    }


def fitted_heads(
    settings: RobustnessSettings, features: dict[str, CleanFeatures], classes: int, device: torch.device
) -> list[Head]:
    """kNN and the linear probe on encoders; kNN and logistic regression on raw pixels."""
    found = []
    for source, its in features.items():
        log_line(f"fitting heads on {source}")
        found.append(knn_head(source, its, classes, settings.protocol))
        if source == PIXELS:
            found.append(logistic_head(source, its, settings.protocol, device))
        else:
            found.append(linear_head(source, its, classes, settings.protocol, settings.seed, device))
    return found
