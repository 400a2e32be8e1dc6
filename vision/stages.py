"""The stages of a run: its crops are larger from a share of it on, and clean views come along where the method takes them.

A stage is a function of the step, so that a run resumes in the middle of any, and across their borders.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from core.image_size import size_text
from core.method import Batch
from vision.augment import Augmentation
from vision.loaders import MemoryLoader, StreamLoader


@dataclass(frozen=True)
class Stage:
    first: int  # step
    augmentation: Augmentation


def first_step(share: float, steps: int) -> int:
    """The first step whose progress, step/steps, is `share` at least; `steps` where none is."""
    return next((step for step in range(int(share * steps), steps) if step / steps >= share), steps)


def stages(augmentation: Augmentation, steps: int, clean_from: float = 1.0) -> list[Stage]:
    """Of a run of so many steps.  clean_from: share of it from which the method takes clean views; 1: never"""
    late = augmentation.late
    larger = first_step(late.since, steps) if late.larger else steps
    clean = first_step(clean_from, steps) if late.clean else steps
    borders = sorted({0, larger, clean} - {steps})
    return [Stage(at, augmentation.staged(at >= larger, at >= clean)) for at in borders]


class StagedLoader:
    """A loader whose augmentation is that of the stage at hand."""

    def __init__(self, loader: MemoryLoader | StreamLoader, stages: list[Stage]):
        self.loader, self.stages = loader, stages

    @property
    def skipped(self) -> dict[str, str]:
        return self.loader.skipped

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        ends = [stage.first for stage in self.stages[1:]] + [stop]
        for stage, end in zip(self.stages, ends, strict=True):
            first, last = max(start, stage.first), min(stop, end)
            if first < last:
                self.loader.augmentation = stage.augmentation
                yield from self.loader.batches(first, last)


def notes(found: list[Stage], clean_from: float) -> list[str]:
    """For the user: where stages begin, and clean views that nothing takes."""
    lines = []
    for before, stage in pairwise(found):
        was, now = before.augmentation, stage.augmentation
        if now.size != was.size:
            lines.append(f"augment.high_resolution: global crops of {size_text(now.size)} px from step {stage.first} on, of "
                         f"{size_text(was.size)} px before")
        if now.clean_size and not was.clean_size:
            lines.append(f"augment.clean: clean views of {size_text(now.clean_size)} px from step {stage.first} on")
    if (clean := found[0].augmentation.late.clean) and clean_from >= 1:
        lines.append(f"augment.clean.size={clean:g}: this method, with its settings, takes no clean views; none are made")
    return lines
