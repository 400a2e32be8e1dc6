"""CompRess: Abbasi Koohpayegani, Tejankar, Pirsiavash, "CompRess: self-supervised learning by compressing representations",
NeurIPS 2020, arXiv 2010.14713. The two-queue form.

A student's similarities to its own embeddings of the last images are to be the teacher's to its own of the same images
(eqs. 1–3). So the student needs no projection to the teacher's width.
"""
import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import check_positive, exact
from core.numerics import unit
from distill.losses import similarity_kl
from distill.method import Distillation


class CompRess(Distillation):
    per_image = True

    def __init__(self, encoder: nn.Module, teacher, classes: int, queue_size: int, temperature: float):
        super().__init__(encoder, teacher)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.students, self.teachers = Queue(queue_size, encoder.dim), Queue(queue_size, teacher.dim)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        self.teachers.fit(images, batch_size)
        return self.students.fit(images, batch_size)  # the same note

    def objective(self, features: Tensor, targets: tuple[Tensor, ...], progress: float) -> tuple[Tensor, dict]:
        z, told = (unit(exact(x), dim=2) for x in (features, targets[0]))
        losses = []
        for view in range(z.shape[1]):
            queues = self.students.rows.to(z.dtype), self.teachers.rows.to(z.dtype)
            losses.append(similarity_kl(z[:, view], told[:, view], *queues, self.temperature, self.temperature))
            self.students.remember(z[:, view])
            self.teachers.remember(told[:, view])
        return torch.stack(losses).mean(), {}

    def after_step(self, progress: float) -> None:
        self.students.update()
        self.teachers.update()
