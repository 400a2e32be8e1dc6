"""CRD: Tian, Krishnan, Isola, "Contrastive representation distillation", ICLR 2020, arXiv 1910.10699.

Student and teacher embeddings of an image attract each other; those of `negatives` images of other classes, from a memory
of the last embedding of every image, repel (§3.2, both ways). The normalising constant is the mean over the first batch, as
in the authors' code (RepDistiller, crd/memory.py). The teacher's embedding layer learns with the student's, as theirs does;
the teacher itself is frozen. `kd` adds so much of Hinton's loss, the paper's CRD+KD.

`positives: memory` is the authors' algorithm: an anchor's positive is its own image's entry in the other network's memory,
without gradient, so each embedding layer learns from one of the two terms only. `positives: batch` takes the other network's
embedding in the batch, with gradient, as runs from before this setting did. Where memory and batch agree the two losses are
equal and the student's gradients are not. With 16,384 negatives, T .07, 128 dimensions and constants of random embeddings, the
gradient by `batch` is 2.00 times as long for random embeddings; for ten clusters of classes, each spread as wide as its center
is long, 1.28 times at cosine .8 between student and teacher and 1.00 times at .95.

Changes: a step draws one set of negatives for all of the batch, so that they are one matrix product; images not yet seen
are no negatives, because their class is not known; no 1e-7 is added to the denominators.
"""
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Output, Record, Traits, at_least_fp32, check_natural, check_positive, check_share
from core.numerics import unit
from core.processes import gather
from distill.losses import contrastive
from distill.losses import kd as hinton
from distill.method import Labelled, Student, Targets

POSITIVES = ("memory", "batch")


@dataclass(frozen=True)
class MemoryTargets(Targets):
    indices: Tensor | None = None  # B int64: which images
    drawn: Tensor | None = None  # B times the number that the step's negatives are drawn from


@dataclass(frozen=True)
class Staged(Record):
    indices: Tensor  # B int64
    student: Tensor  # B,P of length 1, for the memories
    teacher: Tensor  # B,P
    labels: Tensor  # B int64
    constants: Tensor  # pieces,2: log(Z/M) as this step used them


class CRD(Labelled):
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, dim: int, negatives: int,
        temperature: float, momentum: float, kd: float = 0.0, kd_temperature: float = 4.0, positives: str = "memory",
    ):
        self.needs = ("features", "logits") if kd else ("features",)
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature, kd_temperature=kd_temperature)
        check_natural(kd=kd)
        check_share(momentum=momentum)
        if positives not in POSITIVES:
            raise ValueError(f"method.positives={positives}: must be {' or '.join(POSITIVES)}")
        self.kd, self.kd_temperature = kd, kd_temperature
        self.students, self.teachers = nn.Linear(encoder.dim, dim), nn.Linear(teacher.dim, dim)
        self.negatives, self.temperature, self.momentum, self.dim = negatives, temperature, momentum, dim
        self.positives = positives
        self.register_buffer("log_constants", torch.full((2,), math.inf))  # log(Z/M) of teacher's and student's negatives

    def prepare(self, images: int, batch_size: int) -> list[str]:
        device = self.students.weight.device
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, F.normalize(torch.randn(images, self.dim, device=device), dim=1))  # M,P
        self.register_buffer("classes_of", torch.full((images,), -1, device=device))  # −1: not seen yet
        if self.negatives >= images:
            self.negatives = images // 2
            return [f"method.negatives: half of the {images} images, {self.negatives}"]
        return []

    def targets(self, batch: Batch) -> MemoryTargets:
        found, device = super().targets(batch), batch.views[0].device
        indices = batch.indices.to(device)
        labels = found.labels if self.traits.needs_labels else indices  # without labels each image is a class
        drawn = torch.full_like(indices, self._drawn(batch))
        return MemoryTargets(found.features, found.logits, (), labels, indices, drawn)

    def _drawn(self, batch: Batch) -> int:
        """A number that is the step's, the same on every process: the sum of the global batch's images, and the epoch."""
        return int(gather(batch.indices.to(self.students.weight.device)).sum()) * 65_537 + batch.epoch

    def objective(self, features: Tensor, targets: MemoryTargets, progress: float) -> Output:
        output = super().objective(features, targets, progress)
        if not self.kd:
            return output
        found = hinton(at_least_fp32(self.head(features[:, 0])), at_least_fp32(targets.logits[:, 0]), self.kd_temperature)
        return replace(output, loss=output.loss + self.kd * found, scalars=dict(output.scalars) | {"kd": found.detach()})

    def distill(self, student: Student, teacher: MemoryTargets, progress: float) -> Output:
        ours = unit(at_least_fp32(self.students(student.features)), dim=1)
        theirs = unit(at_least_fp32(self.teachers(teacher.features.to(self.teachers.weight.dtype))), dim=1)
        indices, labels = teacher.indices, teacher.labels
        generator = torch.Generator().manual_seed(int(teacher.drawn[0]) % 2**63)
        chosen = torch.randint(len(self.student_memory), (self.negatives,), generator=generator).to(ours.device)
        classes = self.classes_of[chosen]
        allowed = (classes != labels[:, None]) & (classes >= 0) & (chosen != indices[:, None])  # B,N
        sides = [
            (ours, theirs, self.teacher_memory[chosen]),  # anchors B,P; positives B,P; negatives N,P
            (theirs, ours, self.student_memory[chosen]),
        ]
        if self.positives == "memory":
            memories = self.teacher_memory[indices], self.student_memory[indices]
            sides = [(anchors, kept.to(anchors.dtype), n) for (anchors, _, n), kept in zip(sides, memories, strict=True)]
        constants = self.log_constants
        if constants.isinf().any():  # the first step of a run
            constants = torch.stack([self.mean_exponential(*side) for side in sides])
        losses = [contrastive(*side, allowed, self.temperature, c) for side, c in zip(sides, constants, strict=True)]
        return Output(losses[0] + losses[1], staged=Staged(indices, ours.detach(), theirs.detach(), labels, constants[None]))

    @torch.no_grad()
    def mean_exponential(self, anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """log of the mean of e^{a·b/τ} over all processes: b every negative, and each anchor's positive from the memory."""
        similarities = anchors @ negatives.T
        if self.positives == "memory":
            similarities = torch.cat([similarities, (anchors * positives).sum(1, keepdim=True)], dim=1)
        rows = gather(torch.logsumexp(similarities / self.temperature, dim=1))
        return torch.logsumexp(rows, dim=0) - math.log(similarities.shape[1] * len(rows))

    @torch.no_grad()
    def after_step(self, staged: Staged, progress: float) -> None:
        self.log_constants.copy_(staged.constants[0])
        indices = gather(staged.indices)
        for memory, new in ((self.student_memory, gather(staged.student)), (self.teacher_memory, gather(staged.teacher))):
            moved = memory[indices].lerp(new.to(memory.dtype), 1 - self.momentum)
            memory[indices] = unit(moved, dim=1)
        self.classes_of[indices] = gather(staged.labels)
