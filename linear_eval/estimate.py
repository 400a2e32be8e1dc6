"""How long the rest of an evaluation takes: the frozen protocols by the linear probe's time, fine-tuning by a step's."""
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from linear_eval.features import images_of
from linear_eval.inputs import EvaluationInputs, FineTuning
from vision.pixels import normalize_images

STEPS = 2  # that are timed, after one that is not
RATIOS = {"knn": 0.1, "linear": 1.0, "logistic": 0.5, "ridge": 0.1, "curve": 1.0}  # of the linear probe's time, on digits
FEW, CLASSICAL = 0.2, 0.5  # a protocol on a share of the labels; a classical classifier


@dataclass(frozen=True)
class Estimate:
    """Seconds.  finetuning: of them; parts: how many are left"""

    seconds: float
    finetuning: float
    parts: int

    def __str__(self) -> str:
        share = f", {duration(self.finetuning)} of it fine-tuning" if self.finetuning else ""
        return f"estimate: {duration(self.seconds)} to go{share} ({self.parts} parts)"


def estimate(
    inputs: EvaluationInputs, methods: Sequence[str], finetunings: Sequence[FineTuning], probe_seconds: float
) -> Estimate:
    """methods: of the frozen parts that are left, "few …" on a share of the labels; probe_seconds: the linear probe's"""
    frozen = sum(FEW if name.startswith("few ") else RATIOS.get(name, CLASSICAL) for name in methods) * probe_seconds
    tuned = sum(one.steps * step_seconds(inputs, one.batch_size) for one in finetunings)
    return Estimate(frozen + tuned, tuned, len(methods) + len(finetunings))


def step_seconds(inputs: EvaluationInputs, batch_size: int) -> float:
    """Of one step of fine-tuning: forward and backward of a copy of the encoder."""
    split, spec = inputs.dataset.train, inputs.encoder.spec
    images = images_of(split, torch.arange(batch_size) % len(split), spec.geometry, spec.channels).to(inputs.device)
    encoder = copy.deepcopy(inputs.encoder).to(inputs.device).train()
    for step in range(1 + STEPS):
        if step == 1:
            start = time.perf_counter()
        rows = encoder(normalize_images(images, inputs.augmentation.mean, inputs.augmentation.std))
        F.normalize(rows, dim=1).sum().backward()
        float(rows[0, 0].detach())  # a GPU has finished
    return (time.perf_counter() - start) / STEPS


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{max(1, round(seconds))} seconds"
