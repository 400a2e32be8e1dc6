"""What is evaluated: features of every source and split, and fine-tuned classifiers. Runs on all processes."""
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core import cli, training
from core.image_size import size_text
from core.processes import World, is_main
from core.run import Run, log_line
from core.settings import CommonSettings
from linear_eval import subsets
from linear_eval.features import (
    Features,
    Source,
    collect,
    evenly,
    images_of,
    of_encoder,
    pixels_of,
    untrained_encoder,
)
from linear_eval.fit import FittedClassifier, check_labels, fit
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import ENCODER
from linear_eval.settings import DESCRIPTORS, FINETUNE, EvaluateSettings, FinetuneSettings, check_finetune
from vision.build import build_encoder, notes
from vision.data import build_data, fingerprints
from vision.multilabel import refuse
from vision.splits import Dataset, Images
from vision.streamed import Streamed

UNTRAINED, PIXELS, SCRATCH = "untrained", "raw pixels", "from scratch"
MEASURED = (ENCODER, UNTRAINED, PIXELS)  # the sources of curves and measures, whose scores come before those of descriptors
SHARED = (
    "data", "augment", "encoder", "stem", "pretrained", "weights", "normalization", "image_size", "image_fit", "attention",
    "seed", "device", "workers",
)


@dataclass(frozen=True)
class FeatureSet:
    """A source's features of the three splits."""

    train: Features
    validation: Features
    test: Features

    def share(self, labels: float, seed: int, draw: int) -> "FeatureSet":
        """With a share of the labels, in training and validation alike."""
        if labels == 1:
            return self
        train, validation = (
            part.rows(subsets.share(part.labels, labels, seed, draw)) for part in (self.train, self.validation)
        )
        return FeatureSet(train, validation, self.test)

    def probe_data(self, classes: int, all_columns: bool = False) -> ProbeData:
        """For a protocol: the source's output, or with `all_columns` its pooled maps beside it."""

        def columns(part: Features):
            return part.x if all_columns else part.pooled

        train, validation = (Labeled(columns(part), part.labels) for part in (self.train, self.validation))
        return ProbeData(train, validation, columns(self.test), classes)


@dataclass(frozen=True)
class FineTuning:
    """A classifier to fine-tune: the encoder, or the same architecture from scratch, with a share of the labels."""

    source: str
    labels: float
    steps: int
    batch_size: int


class EvaluationInputs:
    """What is evaluated. Features and classifiers are computed when they are first asked for, on one process; several processes
    `collect` all of them together, and then the main one scores them.
    """

    def __init__(self, settings: EvaluateSettings, world: World):
        began = time.monotonic()
        torch.manual_seed(settings.seed)
        self.settings, self.world, self.device = settings, world, world.device
        self.dataset = build_data(settings)
        images = fingerprints(self.dataset)
        if settings.unknown:
            self.unknown_images = unknown_images(settings, self.dataset)
            images |= {"images.unknown": self.unknown_images.fingerprint()}
        self.run = Run(training.folder(settings, f"evaluate-{settings.data.name}", images), settings, images=images)
        check_data(settings, self.dataset)
        self.encoder, self.augmentation = build_encoder(settings, self.dataset)
        self.run.begin()
        self.finetunings = list(finetunings(settings, world, self.dataset))
        self._sources = sources(settings, self.dataset, self.encoder, self.augmentation, self.device)
        self._made: dict[str, Source] = {}
        self._features: dict[str, FeatureSet | None] = {}
        self._unknown: dict[str, Features | None] = {}
        self._classifiers: dict[tuple[str, float], FittedClassifier | None] = {}
        self.seconds = time.monotonic() - began  # spent on opening and collecting

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    @property
    def sources(self) -> list[str]:
        """The names of the sources of features, in the order of results.json."""
        untrained = [UNTRAINED] if is_trained(self.settings) else []
        return [ENCODER, *untrained, PIXELS, *(DESCRIPTORS if "baselines" in self.settings.parts else ())]

    def features(self, source: str) -> FeatureSet:
        """The features of one of `sources`; those before it are extracted first."""
        while source not in self._features:
            self._extract()
        features = self._features[source]
        assert features is not None, "only the main process has features"
        return features

    def _extract(self) -> None:
        source, dataset = next(self._sources), self.dataset
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        parts = {
            name: collect(source, split, self.device, self.cache, f"{source.name}: {name}") for name, split in splits.items()
        }
        self._made[source.name] = source
        self._features[source.name] = FeatureSet(**parts) if is_main() else None

    @property
    def cache(self) -> Path | None:
        return None if self.settings.cache == "none" else cli.expand(self.settings.cache)

    def source(self, name: str) -> Source:
        """One of `sources`."""
        while name not in self._made:
            self._extract()
        return self._made[name]

    def unknown(self, name: str) -> Features:
        """A source's features of the test images of the data set `settings.unknown`, in the channels of this one."""
        if name not in self._unknown:
            self._extract_unknown(name)
        features = self._unknown[name]
        assert features is not None, "only the main process has features"
        return features

    def _extract_unknown(self, name: str) -> None:
        source, split = self.source(name), self.unknown_images
        source = replace(source, channels=source.channels or self.dataset.channels)
        self._unknown[name] = collect(source, split, self.device, self.cache, f"{name}: {self.settings.unknown}")

    def classifier(self, source: str, labels: float) -> FittedClassifier | None:
        """One of `finetunings`, trained, resumed or found done.  None where it is none of them, and on other processes."""
        one = next((one for one in self.finetunings if (one.source, one.labels) == (source, labels)), None)
        if one and (source, labels) not in self._classifiers:
            log_line(f"fine-tuning: {source}, {100 * labels:g} % of the labels, {one.steps:,} steps of {one.batch_size} images")
            self._classifiers[source, labels] = fit(self._finetune_settings(one), self.world, self.dataset)
        return self._classifiers.get((source, labels))

    def _finetune_settings(self, one: FineTuning) -> FinetuneSettings:
        p = self.settings.protocol.finetune
        settings = cli.derive(FINETUNE, self.settings, keep=SHARED, changes={
            "method": "full", "steps": one.steps, "batch_size": one.batch_size, "evals": 2, "labels": one.labels,
            "scratch": one.source == SCRATCH, "head_start": "zero", "optim.scaling": "none",
            "optim.lr": p.lr, "optim.weight_decay": p.weight_decay,
            "out": f"{self.run.folder}/finetune/{one.source.replace(' ', '-')}-{one.labels:g}",
        })
        check_finetune(settings)
        return settings

    def collect(self) -> None:
        """All features and classifiers, by all processes."""
        began = time.monotonic()
        while len(self._features) < len(self.sources):
            self._extract()
        for name in MEASURED if self.settings.unknown else ():
            if name in self.sources:
                self._extract_unknown(name)
        for one in self.finetunings:
            self.classifier(one.source, one.labels)
        self.seconds += time.monotonic() - began


def open_inputs(settings: EvaluateSettings, world: World) -> EvaluationInputs:
    """The data, the encoder and the run's folder, with a line on each.  Raises ValueError where they do not fit."""
    inputs = EvaluationInputs(settings, world)
    encoder, dataset = inputs.encoder, inputs.dataset
    counts = f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    log_line(
        f"{encoder.spec.name} ({sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, {encoder.dim} features) "
        f"on {dataset.name}: {counts} at {size_text(encoder.spec.image_size)} px → {inputs.run.folder}"
    )
    for note in notes(encoder, settings, inputs.augmentation):
        log_line(f"note: {note}")
    return inputs


def check_data(settings: EvaluateSettings, dataset: Dataset) -> None:
    """Refuse data that cannot be evaluated so."""
    check_labels(dataset, settings.data.name)
    if not len(dataset.validation):
        raise ValueError("data.validation=0: there must be validation images, for settings to be chosen on")
    if settings.smote:
        refuse(dataset.train.labels, "smote=true", "leave it out")
    if settings.smote and (rare := dataset.train.labels.bincount()[dataset.train.labels.unique()].min()) < 2:
        raise ValueError(f"smote=true: a class has {rare} training image, and nothing lies between it and another of its class")


def unknown_images(settings: EvaluateSettings, dataset: Dataset) -> Images | Streamed:
    """The test images of the data set `unknown`.  Raises ValueError where it has none; notes classes that are known."""
    other = build_data(cli.derive(FINETUNE, settings, keep=("seed",), changes={"data": settings.unknown}))
    if not len(other.test):
        raise ValueError(f"unknown={settings.unknown} has no test images; choose a data set that has")
    if both := sorted({*(other.classes or ())} & {*dataset.classes}):
        named = f"{', '.join(both[:5])}{', …' if len(both) > 5 else ''}"
        log_line(f"note: unknown={settings.unknown} has classes of the same name as {dataset.name}: {named}")
    return other.test


def sources(
    settings: EvaluateSettings, dataset: Dataset, encoder: torch.nn.Module, recipe, device: torch.device
) -> Iterator[Source]:
    """The encoder, the same one untrained, and image descriptors that are no networks."""
    mean, std = recipe.mean, recipe.std
    yield of_encoder(ENCODER, encoder, mean, std, device)
    if is_trained(settings):
        rival = untrained_encoder(encoder.spec, dataset.train, (mean, std), device, settings.seed)
        yield of_encoder(UNTRAINED, rival, mean, std, device)
    size = min(dataset.image_size, 64)
    yield Source(PIXELS, "", pixels_of, size, dtype="float32")
    if "baselines" in settings.parts:
        from linear_eval.descriptors import descriptors  # imports OpenCV and scikit-image

        sample = images_of(dataset.train, evenly(len(dataset.train), settings.protocol.baselines.sample), size, None)
        for name, describe in descriptors(sample, settings.seed).items():
            if name != PIXELS:
                key = f"{settings.seed} {len(sample)} {dataset.train.fingerprint()}"  # some learn from the training images
                yield Source(name, key, describe, size, dtype="float32")


def is_trained(settings: CommonSettings) -> bool:
    return settings.encoder.endswith(".safetensors") or settings.pretrained or settings.weights is not None


def finetunings(settings: EvaluateSettings, world: World, dataset: Dataset) -> Iterator[FineTuning]:
    """The encoder fine-tuned, and the same architecture from scratch: runs of their own.  With all labels, and of the part
    finetune at every share of them too."""
    p, few = settings.protocol.finetune, {"finetune", "labels"} <= set(settings.parts)
    if not {"finetune", "finetune_all"} & set(settings.parts):
        return
    for labels in (1.0, *(settings.protocol.labels.shares if few else ())):
        count = len(subsets.share(dataset.train.labels, labels, settings.seed, 0))
        batch = min(p.batch_size, count) // world.size * world.size
        if batch < 2 * world.size:
            log_line(f"fine-tuning: {count} images are too few for {world.size} processes: left out")
            continue
        steps = max(round(p.epochs * count / batch), min(p.least_steps, 40 * count))
        for source in (ENCODER, SCRATCH) if is_trained(settings) else (SCRATCH,):
            yield FineTuning(source, labels, steps, batch)
