"""One classifier trained by core's loop: what linear_eval.finetune runs, and linear_eval.evaluate for its fine-tuned rows."""
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import loop, trackers, training
from core.image_size import size_text
from core.processes import World, broadcast_object, is_main
from core.run import ProgressBar, Run, log_line
from core.schedule import plateaus, stepped
from linear_eval import subsets
from linear_eval.average_precision import best_threshold
from linear_eval.classifier import Classifier
from linear_eval.features import Source, collect, evaluating
from linear_eval.frozen_probe import FrozenProbe, start_from_probe
from linear_eval.multilabel.results import validation_map
from linear_eval.results import ProtocolResult
from linear_eval.settings import FinetuneSettings
from vision import artifact, loaders
from vision.augment import Augmentation
from vision.build import build_encoder, checkpoint_blocks, compile_encoder, notes, precision
from vision.data import build_data, fingerprints
from vision.multilabel import class_counts, refuse
from vision.pixels import normalize_images
from vision.splits import Dataset


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier that was trained, and what it scores on the test split. On the main process."""

    folder: Path
    method: Classifier
    recipe: Augmentation
    dataset: Dataset
    result: ProtocolResult
    test: np.ndarray  # M indices of the test images that could be read
    images: int  # that it was trained on
    frozen: ProtocolResult | None  # of the probe that it began as


def fit(settings: FinetuneSettings, world: World, dataset: Dataset | None = None) -> FittedClassifier | None:
    """Train, or resume, or find it done.  None on other processes than the main one."""
    start = time.monotonic()
    torch.manual_seed(settings.seed)
    dataset = dataset or build_data(settings)
    images = fingerprints(dataset)
    folder = training.folder(settings, f"finetune-{settings.data.name}", images)
    run = Run(folder, settings, settings.resume, images)
    check_labels(dataset, settings.data.name)
    if settings.balanced:
        refuse(dataset.train.labels, "balanced=true", "leave it out, or set method.weighting=balanced")
    check_validation(dataset, settings)
    encoder, recipe = build_encoder(settings, dataset)
    train, validation = (_some(split, settings) for split in (dataset.train, dataset.validation))
    counts = class_counts(train.labels, len(dataset.classes))
    several = {"prevalence": counts / len(train)} if dataset.multilabel else {}
    method = training.build_method(settings, encoder, counts=counts, seed=settings.seed, **several)
    labels = train.labels if settings.balanced else None
    deal = loaders.BatchSampler(len(train), settings.batch_size, settings.seed, world, labels, windows=train.windows)
    watch = Watch(method, validation, recipe, world.device, settings.early_stop)
    precise = precision(settings.precision, encoder, world.device, [view.size for view in recipe.views])
    optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, precise, should_stop=watch.should_stop)
    config = replace(config, rate=rate(settings, watch, config.rate))
    if not len(validation):
        config = replace(config, evals=frozenset())

    past = run.restore(method, optimizer)
    watch.restore(past)
    run.begin()
    if past is None and begins_as_probe(settings):
        watch.probe = start_from_probe(method, train, dataset, recipe, world.device)
        if watch.probe and watch.probe.validation is not None:
            figure = f"{watch.probe.validation:.1f} % {'mean average precision on' if several else 'of'} validation images"
            log_line(f"frozen features: {figure}; fine-tuning begins there")
    log_line(
        f"{settings.method.name} on {len(train):,} labelled images of {dataset.name} at {size_text(recipe.size)} px: "
        f"{encoder.spec.name}, {config.steps} steps of {config.batch_size} images, {'bf16' if precise else 'fp32'} "
        f"→ {run.folder}"
    )
    for note in notes(encoder, settings, recipe):
        log_line(f"note: {note}")
    if is_main() and run.step < config.steps:
        run.listeners += [*trackers.listeners(settings.trackers, run), ProgressBar(config.steps, run.step, "fine-tuning")]
    workers = training.workers(settings, world.local_size, world.device.type == "cuda")
    batches = loaders.loader(train, recipe, deal, encoder.spec.channels, workers).batches(run.step, config.steps)
    if settings.compile:
        compile_encoder(encoder)
    if settings.checkpointing:
        checkpoint_blocks(encoder)
    try:
        loop.train(method, batches, optimizer, config, run, world.device, evaluate=watch.check, extra=watch.state)
    finally:
        run.close()
    if settings.early_stop and watch.best:
        method.load_state_dict(watch.best)
    origin = {"tool": "linear_eval.finetune", "words": run.identity}
    run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
    threshold = watch.threshold() if several else None
    run.write("classifier.safetensors", artifact.dumps(encoder, recipe, origin, method.head, dataset.classes, threshold))
    scores = predict(method, dataset.test, recipe, world.device, "test images")
    if scores is None:
        return None
    result = ProtocolResult(
        "augmented" if settings.method.trains == "head" else "finetune",
        scores.x,
        {"lr": settings.optim.lr, "epochs": round(run.step / deal.steps_an_epoch, 2), "weights": watch.which},
        watch.selected_on,
        watch.scores[-1] if watch.scores and not settings.early_stop else max(watch.scores, default=None),
        seconds=time.monotonic() - start,
        note="" if threshold is None or len(validation) else "threshold 0.5: there are no validation images to choose it on",
        threshold=threshold,
    )
    frozen = watch.probe and watch.probe.result()
    return FittedClassifier(run.folder, method, recipe, dataset, result, scores.indices, len(train), frozen)


def begins_as_probe(settings: FinetuneSettings) -> bool:
    """Whether the classifier begins as the probe of frozen features: of a trained encoder that is trained further."""
    trained = settings.encoder.endswith(".safetensors") or settings.pretrained or settings.weights is not None
    return settings.head_start == "probe" and trained and not settings.scratch and settings.method.trains != "head"


def check_labels(dataset: Dataset, name: str) -> None:
    """Refuse data that a classifier cannot be trained or judged on."""
    if dataset.multilabel:
        check_multilabel(dataset, name)
    if dataset.classes is None or dataset.train.labels is None:
        raise ValueError(f"data={name} has no labels, and there must be: two or more sub-folders of a folder are its "
                         f"classes, or data.labels names a file")
    if len(dataset.train.labels.unique()) < 2:
        raise ValueError(f"data={name}: training images of a single class leave nothing to tell apart; add a second class")
    if not len(dataset.test) or dataset.test.labels is None:
        raise ValueError(f"data={name} has no labelled test images; add images, or a test/ folder with class folders")


def check_multilabel(dataset: Dataset, name: str) -> None:
    """Refuse data of which no image of train, or of test, has a class."""
    for role, split in (("training", dataset.train), ("test", dataset.test)):
        if not len(split) or split.labels is None or not split.labels.any():
            raise ValueError(f"data={name}: no {role} image has one of the {len(dataset.classes)} classes; label some")


def check_validation(dataset: Dataset, settings: FinetuneSettings) -> None:
    """Refuse settings that read validation accuracy where there are no validation images."""
    if len(dataset.validation):
        return
    plateau = settings.schedule.name == "plateau"
    readers = {f"early_stop={settings.early_stop}": settings.early_stop, "schedule.name=plateau": plateau}
    for setting, reads in readers.items():
        if reads:
            data = f"data={settings.data.name}"
            raise ValueError(f"{setting} needs validation images, and {data} has none: raise data.validation")


def _some(split, settings: FinetuneSettings):
    """The share of a split's labelled images that `labels` asks for."""
    if settings.labels == 1 or not len(split):
        return split
    return split.select(torch.from_numpy(subsets.share(split.labels, settings.labels, settings.seed, settings.draw)))


def predict(method: Classifier, split, recipe: Augmentation, device: torch.device, title: str):
    """Class probabilities of a split, by all processes.  → Features with x: N,K on the main one"""

    def describe(images: Tensor) -> Tensor:
        with evaluating(method):
            return method.probabilities(method.classify(normalize_images(images.to(device), recipe.mean, recipe.std)).float())

    spec = method.encoder.spec
    return collect(Source(title, "", describe, spec.geometry, spec.channels, "float32"), split, device, title=title)


def rate(settings: FinetuneSettings, watch: "Watch", cosine):
    """The learning rate as a function of progress. A plateau's also depends on what validation has shown so far."""
    s, o, peak = settings.schedule, settings.optim, training.learning_rate(settings)
    if s.name == "step":
        return partial(stepped, peak=peak, warmup=o.warmup, at=tuple(s.at), factor=s.factor, start=o.warmup_lr)
    if s.name == "plateau":
        flat = partial(stepped, peak=peak, warmup=o.warmup, at=(), factor=s.factor, start=o.warmup_lr)
        return lambda progress: flat(progress) * s.factor ** plateaus(watch.scores, s.patience)
    return cosine


class Watch:
    """Validation accuracy as it comes in, or mean average precision where images may have several labels, the same on all
    processes; the best weights, where a run may end early."""

    def __init__(self, method: Classifier, validation, recipe: Augmentation, device: torch.device, early_stop: int):
        self.method, self.validation, self.recipe, self.device = method, validation, recipe, device
        self.early_stop, self.scores, self.best = early_stop, [], None
        self.probe: FrozenProbe | None = None

    def check(self, step: int) -> dict[str, float]:
        found = predict(self.method, self.validation, self.recipe, self.device, "validation images")
        if self.method.multilabel:
            score = broadcast_object(found and validation_map(found.labels, found.x))
        else:
            score = broadcast_object(found and float((found.x.argmax(1) == found.labels).mean() * 100))
        if self.early_stop and score > max(self.scores, default=-1):
            self.best = {name: value.clone() for name, value in self.method.state_dict().items()}
        self.scores.append(score)
        return {"validation_map" if self.method.multilabel else "validation_accuracy": score}

    def threshold(self) -> float:
        """The probability from which on a class is predicted, by validation images; 0.5 without any."""
        if not len(self.validation):
            return 0.5
        found = predict(self.method, self.validation, self.recipe, self.device, "validation images")
        return broadcast_object(found and best_threshold(found.labels, found.x))

    def should_stop(self) -> bool:
        if not (self.early_stop and self.scores):
            return False
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= self.early_stop

    @property
    def which(self) -> str:
        return "best on validation" if self.early_stop else "last"

    @property
    def selected_on(self) -> str:
        return f"{len(self.validation):,} validation images" if self.early_stop else "nothing: fixed"

    def state(self) -> dict:
        return {"scores": self.scores, "best": self.best, "probe": self.probe and self.probe.state()}

    def restore(self, state: dict | None) -> None:
        if state:
            self.scores, self.best = state["scores"], state["best"]
            probe = state.get("probe")  # runs of earlier versions have none
            self.probe = probe and FrozenProbe(**probe)
