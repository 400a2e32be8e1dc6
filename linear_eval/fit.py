"""One classifier trained by core's loop: what linear_eval.finetune runs, and linear_eval.evaluate for its fine-tuned rows."""
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import command, config, loop, trackers
from core.batchnorm import sync_batchnorm
from core.distributed import World, broadcast_object, is_main
from core.run import ProgressBar, Run, say
from core.schedule import plateaus, stepped
from linear_eval import subsets
from linear_eval.classifier import Classifier
from linear_eval.features import Source, collect, evaluating, plain
from linear_eval.outcome import Outcome
from vision import artifact, loaders
from vision.augment import Recipe
from vision.build import build_encoder, compile_encoder, precision
from vision.data import build_data, fingerprints
from vision.splits import Dataset


@dataclass(frozen=True)
class Fitted:
    """A classifier that was trained, and what it scores on the test split. On the main process."""

    folder: Path
    method: Classifier
    recipe: Recipe
    dataset: Dataset
    outcome: Outcome
    test: np.ndarray  # M indices of the test images that could be read
    images: int  # that it was trained on


def fit(words, world: World, dataset: Dataset | None = None) -> Fitted | None:
    """Train, or go on, or find it done.  None on other processes than the main one."""
    start = time.monotonic()
    torch.manual_seed(words.seed)
    dataset = dataset or build_data(words)
    images = fingerprints(dataset)
    run = Run(command.folder(words, f"finetune-{words.chosen.data}", images), config.plain(words), words.resume, images)
    check_labels(dataset, words.chosen.data)
    check_validation(dataset, words)
    encoder, recipe = build_encoder(words, dataset)
    train, validation = (_some(split, words) for split in (dataset.train, dataset.validation))
    counts = train.labels.bincount(minlength=len(dataset.classes))
    method = command.build_method(words, encoder, counts=counts, seed=words.seed)
    if world.size > 1 and words.method.trains != "head":
        sync_batchnorm(method)
    method.to(world.device, memory_format=torch.channels_last)
    deal = loaders.Plan(len(train), words.batch_size, words.seed, world, train.labels if words.balanced else None)
    optimizer = command.build_optimizer(words, method)
    watch = Watch(method, validation, recipe, world.device, words.early_stop)
    precise = precision(words.precision, encoder, world.device, [view.size for view in recipe.views])
    plan = command.build_plan(words, deal.steps_an_epoch, world.size, precise, enough=watch.enough)
    plan = replace(plan, rate=rate(words, watch, plan.rate))
    if not len(validation):
        plan = replace(plan, checks=frozenset())

    watch.restore(run.restore(method, optimizer))
    run.begin()
    say(
        f"{words.chosen.method} on {len(train):,} labelled images of {dataset.name} at {recipe.size} px: {encoder.spec.name}, "
        f"{plan.steps} steps of {plan.batch_size} images, {'bf16' if precise else 'fp32'} → {run.folder}"
    )
    if is_main() and run.step < plan.steps:
        run.listeners += [*trackers.listeners(words.trackers, run), ProgressBar(plan.steps, run.step, "fine-tuning")]
    workers = command.workers(words, world.local_size, world.device.type == "cuda")
    batches = loaders.loader(train, recipe, deal, encoder.spec.channels, workers).batches(run.step, plan.steps)
    if words.compile:
        compile_encoder(encoder)
    try:
        loop.train(method, batches, optimizer, plan, run, world.device, observe=watch.check, extra=watch.state)
    finally:
        run.close()
    if words.early_stop and watch.best:
        method.load_state_dict(watch.best)
    origin = {"tool": "linear_eval.finetune", "words": run.identity}
    run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
    run.write("classifier.safetensors", artifact.dumps(encoder, recipe, origin, method.head, dataset.classes))
    scores = predict(method, dataset.test, recipe, world.device, "test images")
    if scores is None:
        return None
    outcome = Outcome(
        "augmented" if words.method.trains == "head" else "finetune",
        scores.x,
        {"lr": words.optim.lr, "epochs": round(run.step / deal.steps_an_epoch, 2), "weights": watch.which},
        watch.selected_on,
        watch.scores[-1] if watch.scores and not words.early_stop else max(watch.scores, default=None),
        seconds=time.monotonic() - start,
    )
    return Fitted(run.folder, method, recipe, dataset, outcome, scores.indices, len(train))


def check_labels(dataset: Dataset, name: str) -> None:
    """Refuse data that a classifier cannot be trained or judged on."""
    if dataset.classes is None or dataset.train.labels is None:
        raise ValueError(f"data={name} has no labels, and there must be: two or more sub-folders of a folder are its classes")
    if len(dataset.train.labels.unique()) < 2:
        raise ValueError(f"data={name}: training images of a single class leave nothing to tell apart; add a second class")
    if not len(dataset.test) or dataset.test.labels is None:
        raise ValueError(f"data={name} has no labelled test images; add images, or a test/ folder with class folders")


def check_validation(dataset: Dataset, words) -> None:
    """Refuse settings that read validation accuracy where there are no validation images."""
    if len(dataset.validation):
        return
    readers = {f"early_stop={words.early_stop}": words.early_stop, "schedule.name=plateau": words.schedule.name == "plateau"}
    for setting, reads in readers.items():
        if reads:
            raise ValueError(f"{setting} needs validation images, and data={words.chosen.data} has none: raise data.validation")


def _some(split, words):
    """The share of a split's labelled images that `labels` asks for."""
    if words.labels == 1 or not len(split):
        return split
    return split.select(torch.from_numpy(subsets.share(split.labels, words.labels, words.seed, words.draw)))


def predict(method: Classifier, split, recipe: Recipe, device: torch.device, title: str):
    """Class probabilities of a split, by all processes.  → Features with x: N,K on the main one"""

    def describe(images: Tensor) -> Tensor:
        with evaluating(method):
            return method.classify(plain(images.to(device), recipe.mean, recipe.std)).float().softmax(1)

    spec = method.encoder.spec
    return collect(Source(title, "", describe, spec.image_size, spec.channels, "float32"), split, device, title=title)


def rate(words, watch: "Watch", cosine):
    """The learning rate as a function of progress. A plateau's also depends on what validation has shown so far."""
    s, o, peak = words.schedule, words.optim, command.learning_rate(words)
    if s.name == "step":
        return partial(stepped, peak=peak, warmup=o.warmup, at=tuple(s.at), factor=s.factor, start=o.warmup_lr)
    if s.name == "plateau":
        flat = partial(stepped, peak=peak, warmup=o.warmup, at=(), factor=s.factor, start=o.warmup_lr)
        return lambda progress: flat(progress) * s.factor ** plateaus(watch.scores, s.patience)
    return cosine


class Watch:
    """Validation accuracy as it comes in, the same on all processes; the best weights, where a run may end early."""

    def __init__(self, method: Classifier, validation, recipe: Recipe, device: torch.device, early_stop: int):
        self.method, self.validation, self.recipe, self.device = method, validation, recipe, device
        self.early_stop, self.scores, self.best = early_stop, [], None

    def check(self, step: int) -> dict[str, float]:
        found = predict(self.method, self.validation, self.recipe, self.device, "validation images")
        score = broadcast_object(found and float((found.x.argmax(1) == found.labels).mean() * 100))
        if self.early_stop and score > max(self.scores, default=-1):
            self.best = {name: value.clone() for name, value in self.method.state_dict().items()}
        self.scores.append(score)
        return {"validation_accuracy": score}

    def enough(self) -> bool:
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
        return {"scores": self.scores, "best": self.best}

    def restore(self, state: dict | None) -> None:
        if state:
            self.scores, self.best = state["scores"], state["best"]
