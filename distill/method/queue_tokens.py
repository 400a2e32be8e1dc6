"""Distillation by a queue of pseudo-classes and by similarities within an image, as LightlyTrain's third version documents it.

Features: KL between softmax similarities of teacher and student to a queue of the teacher's vectors, all of length 1, one
temperature. The image's own teacher vector comes first among them, and the queue takes the batch in after the step; there the
queue takes it in before the loss, so that the batch's other vectors are among the classes too. Patches: KL between the rows of
softmax similarities among an image's patches, the diagonal included, on the teacher's grid. Left out: its mixup, whose images
no cache of the teacher's outputs could know.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Output, Record, at_least_fp32, check_natural, check_positive
from core.numerics import unit
from distill.losses import kd
from distill.with_tokens import TokenTargets, WithTokens

LENGTHS = {50: 16, 100: 32, 250: 64, 500: 128, 1_000: 256, 2_000: 512, 4_000: 1_024, 10_000: 2_048, 20_000: 4_096}
LONGEST = 8_192  # of data beyond those: images → queue, LightlyTrain's table


@dataclass(frozen=True)
class Staged(Record):
    """What the queues are to take in."""

    features: tuple[Tensor, ...]  # of each teacher B,D of length 1


class QueueTokens(WithTokens):
    standardized = False

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, *, queue_size: int, temperature: float, patch_temperature: float,
        patch_weight: float, components: int,
    ):
        super().__init__(encoder, teacher, "linear", 0, components)
        check_positive(temperature=temperature, patch_temperature=patch_temperature)
        check_natural(patch_weight=patch_weight, queue_size=queue_size)
        self.by_data = not queue_size
        self.queues = nn.ModuleList([Queue(queue_size or LONGEST, len(b.features_mean)) for b in self.tokens.bases])
        self.temperatures, self.patch_weight = (temperature, patch_temperature), patch_weight

    def prepare(self, images: int, batch_size: int) -> list[str]:
        if not self.by_data:
            notes = [queue.fit(images, batch_size) for queue in self.queues]
            return notes[0]
        length = next((length for most, length in LENGTHS.items() if images <= most), LONGEST)
        for queue in self.queues:
            queue.rows = queue.rows[:length].clone()
        return [f"method.queue_size=0: {length} teacher vectors, for {images} images"]

    def objective(self, features: tuple[Tensor, ...], targets: TokenTargets, progress: float) -> Output:
        pooled, patches, staged = [], [], []
        tau, patch_tau = self.temperatures
        for i, queue in enumerate(self.queues):
            ours, theirs = (unit(at_least_fp32(x), dim=1) for x in (features[2 * i], targets.features[i]))
            pooled.append(kd(*(_to_classes(x, theirs, queue.rows.to(x.dtype)) for x in (ours, theirs)), tau) / tau**2)
            maps = (unit(at_least_fp32(x), dim=1).flatten(2) for x in (features[2 * i + 1], targets.maps[i]))  # B,E,N
            rows = [(x.mT @ x).flatten(0, 1) for x in maps]  # B·N,N
            patches.append(kd(rows[0], rows[1], patch_tau) / patch_tau**2)
            staged.append(theirs)
        a, b = torch.stack(pooled).mean(), torch.stack(patches).mean()
        scalars = {"features": a.detach(), "patches": b.detach()}
        return Output(a + self.patch_weight * b, scalars, Staged(tuple(staged)))

    def after_step(self, staged: Staged, progress: float) -> None:
        for queue, rows in zip(self.queues, staged.features, strict=True):
            queue.commit(rows)


def _to_classes(x: Tensor, own: Tensor, queue: Tensor) -> Tensor:
    """Similarities to each image's own teacher vector, and to the queue.  B,D, B,D and K,D → B,1+K"""
    return torch.cat([(x * own).sum(1, keepdim=True), x @ queue.T], 1)
