"""One segmenter trained by core's loop: validation chooses the step whose weights are kept, and test is scored once."""
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from core import loop, trackers, training
from core.image_size import size_text
from core.processes import World, broadcast_object, is_main
from core.run import ProgressBar, Run, counting, log_line
from linear_eval.dense.constant import constant_counts, most_common_class
from linear_eval.dense.metrics import SegmentationCounts, global_miou
from linear_eval.dense.pictures import SegmentedImage, evenly_shown
from linear_eval.segment.scoring import score
from linear_eval.segment.segmenter import Segmenter
from linear_eval.segment.settings import SegmentSettings
from vision import artifact, loaders
from vision.augment import Augmentation
from vision.build import build_encoder, compile_encoder, notes, precision
from vision.data import build_segmentation, fingerprints, mask_fingerprints
from vision.segmentation import Segmentation, SegmentationData


@dataclass(frozen=True, eq=False)
class FittedSegmenter:
    """A segmenter that was trained, and what it does on the test split. On the main process."""

    folder: Path
    method: Segmenter
    data: SegmentationData
    counts: SegmentationCounts  # of the test images
    trivial: SegmentationCounts  # of the most common class of train everywhere
    seen: list[SegmentedImage]
    validation: float
    chosen_at: int
    steps: int


def fit(settings: SegmentSettings, world: World) -> FittedSegmenter | None:
    """Train, or resume, or find it done.  None on other processes than the main one."""
    if world.size > 1:
        raise ValueError(f"{world.size} processes: linear_eval.segment runs in one; start it without torchrun")
    torch.manual_seed(settings.seed)
    data = build_segmentation(settings)
    for role, split in (("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(f"data={settings.data.name} has no {role} images: raise data.validation, or add images to {role}")
    classes = {"masks.classes": f"{len(data.train.classes)} ({', '.join(data.train.classes)})"}
    images = fingerprints(data.dataset) | mask_fingerprints(data, "masks.") | classes
    run = Run(training.folder(settings, f"segment-{settings.data.name}", images), settings, settings.resume, images)
    encoder, recipe = build_encoder(settings, data.dataset)
    method = training.build_method(settings, encoder, masks=data.train.masks, classes=len(data.train.classes))
    deal = loaders.BatchSampler(len(data.train), settings.batch_size, settings.seed, world)
    watch = Watch(method, data.validation, recipe, world.device)
    precise = precision(settings.precision, encoder, world.device, [view.size for view in recipe.views])
    optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, precise)

    watch.restore(run.restore(method, optimizer))
    run.begin()
    log_line(f"{settings.method.name} on {len(data.train):,} images with masks of {settings.data.name} at "
             f"{size_text(recipe.size)} px, {len(data.train.classes)} classes: {encoder.spec.name}, {config.steps} steps of "
             f"{config.batch_size} images, {'bf16' if precise else 'fp32'} → {run.folder}")
    for note in notes(encoder, settings, recipe):
        log_line(f"note: {note}")
    if is_main() and run.step < config.steps:
        run.listeners += [*trackers.listeners(settings.trackers, run), ProgressBar(config.steps, run.step, "segmentation")]
    workers = training.workers(settings, world.local_size, world.device.type == "cuda")
    batches = loaders.loader(data.train.images, recipe, deal, encoder.spec.channels, workers).batches(run.step, config.steps)
    if settings.compile:
        compile_encoder(encoder)
    try:
        loop.train(method, batches, optimizer, config, run, world.device, evaluate=watch.check, extra=watch.state)
    finally:
        run.close()
    if watch.best:
        method.load_state_dict(watch.best)
    origin = {"tool": "linear_eval.segment", "words": run.identity}
    run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
    run.write("decoder.safetensors", _decoder(method, settings, data.test))
    shown = evenly_shown(len(data.test), settings.shown)
    scores = score(method, data.test, recipe, world.device, keep=shown, title="test images")
    if scores is None:
        return None
    return FittedSegmenter(run.folder, method, data, scores.counts, _most_common(data), scores.seen, max(watch.scores),
                           watch.steps[int(np.argmax(watch.scores))], config.steps)


class Watch:
    """mIoU on validation images as it comes in, the same on all processes, and the weights with the highest."""

    def __init__(self, method: Segmenter, validation: Segmentation, recipe: Augmentation, device: torch.device):
        self.method, self.validation, self.recipe, self.device = method, validation, recipe, device
        self.scores: list[float] = []
        self.steps: list[int] = []
        self.best: dict | None = None

    def check(self, step: int) -> dict[str, float]:
        found = score(self.method, self.validation, self.recipe, self.device, boundaries=False)
        miou = broadcast_object(found and global_miou(found.counts))
        if miou > max(self.scores, default=-1.0):
            self.best = {name: value.clone() for name, value in self.method.state_dict().items()}
        self.scores.append(miou)
        self.steps.append(step)
        return {"validation_miou": miou}

    def state(self) -> dict:
        return {"scores": self.scores, "steps": self.steps, "best": self.best}

    def restore(self, state: dict | None) -> None:
        if state:
            self.scores, self.steps, self.best = state["scores"], state["steps"], state["best"]


def _decoder(method: Segmenter, settings: SegmentSettings, split: Segmentation) -> bytes:
    """The decoder's weights, with what it takes to build it again."""
    header = {"decoder": settings.method.decoder, "width": settings.method.width, "classes": list(split.classes)}
    state = {name: value.detach().cpu().contiguous() for name, value in method.decoder.state_dict().items()}
    # One entry: safetensors writes several in an order that differs from call to call.
    return safetensors.torch.save(state, {"nolabel": json.dumps(header, sort_keys=True)})


def _most_common(data: SegmentationData) -> SegmentationCounts:
    """The most common class of train's pixels, as the prediction of every test pixel."""
    with counting("the most common class") as progress:

        def positions() -> Iterator[int]:
            for index in range(len(data.train)):
                yield index
                progress(index + 1, len(data.train))

        return constant_counts(data.test, most_common_class(data.train.masks, positions()))
