"""CompRess: Abbasi Koohpayegani, Tejankar, Pirsiavash, "CompRess: self-supervised learning by compressing representations",
NeurIPS 2020, arXiv 2010.14713. The two-queue form.

A student's similarities to its own embeddings of the last images are to be the teacher's to its own of the same images
(eqs. 1–3). So the student needs no projection to the teacher's width.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Output, Record, Traits, at_least_fp32, check_positive
from core.numerics import unit
from distill.losses import similarity_kl
from distill.method import Distillation, Targets


@dataclass(frozen=True)
class Staged(Record):
    students: Tensor  # B,V,D of length 1, for the queues
    teachers: Tensor  # B,V,E


class CompRess(Distillation):
    traits = Traits(per_image=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, queue_size: int, temperature: float):
        super().__init__(encoder, teacher)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.students, self.teachers = Queue(queue_size, encoder.dim), Queue(queue_size, teacher.dim)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        self.teachers.fit(images, batch_size)
        return self.students.fit(images, batch_size)  # the same note

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        z, theirs = (unit(at_least_fp32(x), dim=2) for x in (features, targets.features))
        losses = []
        for view in range(z.shape[1]):
            queues = self.students.rows.to(z.dtype), self.teachers.rows.to(z.dtype)
            losses.append(similarity_kl(z[:, view], theirs[:, view], *queues, self.temperature, self.temperature))
        return Output(torch.stack(losses).mean(), staged=Staged(z.detach(), theirs))

    def after_step(self, staged: Staged, progress: float) -> None:
        self.students.commit(*staged.students.unbind(1))
        self.teachers.commit(*staged.teachers.unbind(1))
