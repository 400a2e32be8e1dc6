"""What is evaluated: features of every source and split, and fine-tuned classifiers. Runs on all processes."""
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from core import cli, training
from core.image_size import size_text
from core.processes import World
from core.run import Run, log_line
from linear_eval import subsets
from linear_eval.descriptors import descriptors
from linear_eval.features import (
    CALIBRATED,
    Features,
    Source,
    collect,
    evenly,
    images_of,
    of_encoder,
    pixels_of,
    recompute_batchnorm,
)
from linear_eval.fit import FittedClassifier, check_labels, fit
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import ENCODER
from linear_eval.settings import FINETUNE, EvaluateSettings, check_finetune
from vision import encoders
from vision.build import build_encoder, notes
from vision.data import build_data, fingerprints
from vision.multilabel import refuse
from vision.splits import Dataset

UNTRAINED, PIXELS, SCRATCH = "untrained", "raw pixels", "from scratch"
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
class FineTuned:
    """A fine-tuned classifier among the inputs.  labels: share of the labels that it was trained on"""

    source: str
    labels: float
    classifier: FittedClassifier


@dataclass(frozen=True)
class EvaluationInputs:
    """What the main process scores. Other processes hold one without features and classifiers."""

    run: Run
    dataset: Dataset
    encoder: torch.nn.Module
    feature_sets: dict[str, FeatureSet]  # by source
    finetuned: list[FineTuned]
    device: torch.device

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)


def collect_inputs(settings: EvaluateSettings, world: World) -> EvaluationInputs:
    torch.manual_seed(settings.seed)
    dataset = build_data(settings)
    images = fingerprints(dataset)
    run = Run(training.folder(settings, f"evaluate-{settings.data.name}", images), settings, images=images)
    check_labels(dataset, settings.data.name)
    if not len(dataset.validation):
        raise ValueError("data.validation=0: there must be validation images, for settings to be chosen on")
    if settings.smote:
        refuse(dataset.train.labels, "smote=true", "leave it out")
    if settings.smote and (rare := dataset.train.labels.bincount()[dataset.train.labels.unique()].min()) < 2:
        raise ValueError(f"smote=true: a class has {rare} training image, and nothing lies between it and another of its class")
    encoder, recipe = build_encoder(settings, dataset)
    run.begin()
    counts = f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    log_line(
        f"{encoder.spec.name} ({sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, {encoder.dim} features) "
        f"on {dataset.name}: {counts} at {size_text(encoder.spec.image_size)} px → {run.folder}"
    )
    for note in notes(encoder, settings, recipe):
        log_line(f"note: {note}")
    cache = None if settings.cache == "none" else cli.expand(settings.cache)
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    feature_sets = {}
    for source in sources(settings, dataset, encoder, recipe, world.device):
        features = {
            name: collect(source, split, world.device, cache, f"{source.name}: {name}") for name, split in splits.items()
        }
        if world.rank == 0:
            feature_sets[source.name] = FeatureSet(**features)
    finetuned = list(finetuned_classifiers(settings, world, dataset, run)) if "finetune" in settings.parts else []
    return EvaluationInputs(run, dataset, encoder, feature_sets, finetuned, world.device)


def sources(
    settings: EvaluateSettings, dataset: Dataset, encoder: torch.nn.Module, recipe, device: torch.device
) -> Iterator[Source]:
    """The encoder, the same one untrained, and image descriptors that are no networks."""
    mean, std = recipe.mean, recipe.std
    yield of_encoder(ENCODER, encoder, mean, std, device)
    if is_trained(settings):
        torch.manual_seed(settings.seed)
        untrained = encoders.build(encoder.spec).to(device)
        some = images_of(dataset.train, evenly(len(dataset.train), CALIBRATED), encoder.spec.geometry, encoder.spec.channels)
        yield of_encoder(UNTRAINED, recompute_batchnorm(untrained, some, mean, std, device), mean, std, device)
    size = min(dataset.image_size, 64)
    yield Source(PIXELS, "", pixels_of, size, dtype="float32")
    if "baselines" in settings.parts:
        sample = images_of(dataset.train, evenly(len(dataset.train), settings.protocol.baselines.sample), size, None)
        for name, describe in descriptors(sample, settings.seed).items():
            if name != PIXELS:
                key = f"{settings.seed} {len(sample)} {dataset.train.fingerprint()}"  # some learn from the training images
                yield Source(name, key, describe, size, dtype="float32")


def is_trained(settings: EvaluateSettings) -> bool:
    return settings.encoder.endswith(".safetensors") or settings.pretrained or settings.weights is not None


def finetuned_classifiers(settings: EvaluateSettings, world: World, dataset: Dataset, run: Run) -> Iterator[FineTuned]:
    """The encoder fine-tuned, and the same architecture from scratch, at every share of the labels: runs of their own."""
    p = settings.protocol.finetune
    for labels in (1.0, *(settings.protocol.labels.shares if "labels" in settings.parts else ())):
        count = len(subsets.share(dataset.train.labels, labels, settings.seed, 0))
        batch = min(p.batch_size, count) // world.size * world.size
        if batch < 2 * world.size:
            log_line(f"fine-tuning: {count} images are too few for {world.size} processes: left out")
            continue
        steps = max(round(p.epochs * count / batch), min(p.least_steps, 40 * count))
        for source in (ENCODER, SCRATCH) if is_trained(settings) else (SCRATCH,):
            classifier = cli.derive(FINETUNE, settings, keep=SHARED, changes={
                "method": "full", "steps": steps, "batch_size": batch, "evals": 2, "labels": labels,
                "scratch": source == SCRATCH, "head_start": "zero", "optim.scaling": "none",
                "optim.lr": p.lr, "optim.weight_decay": p.weight_decay,
                "out": f"{run.folder}/finetune/{source.replace(' ', '-')}-{labels:g}",
            })
            check_finetune(classifier)
            log_line(f"fine-tuning: {source}, {100 * labels:g} % of the labels")
            if fitted := fit(classifier, world, dataset):
                yield FineTuned(source, labels, fitted)
