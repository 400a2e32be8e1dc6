"""Feature regression: the student's projected features become the teacher's.

`loss: cosine` is 2 − 2 cos, the squared distance of unit vectors (the simplest form; with a momentum teacher it would be
BYOL's, arXiv 2006.07733, eq. 2). `loss: kl` compares softmax similarities to a queue of teacher features at one temperature for
both, as LightlyTrain's distillation documents its first version.
"""

import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Output, Traits, at_least_fp32, check_positive, each_view
from core.numerics import unit
from distill.losses import similarity_kl
from distill.method import Distillation, Targets, TeacherRows, projector


class Regression(Distillation):
    traits = Traits(per_image=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, loss: str, hidden: int, queue_size: int, temperature: float
    ):
        super().__init__(encoder, teacher)
        check_positive(temperature=temperature)
        if loss not in ("cosine", "kl"):
            raise ValueError(f"method.loss={loss}: there are cosine and kl")
        self.projector = projector(encoder.dim, teacher.dim, hidden)
        self.queue = Queue(queue_size, teacher.dim) if loss == "kl" else None
        self.temperature = temperature

    def prepare(self, images: int, batch_size: int) -> list[str]:
        return self.queue.fit(images, batch_size) if self.queue else []

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        z = unit(at_least_fp32(each_view(self.projector, features)), dim=2)  # B,V,P
        theirs = unit(at_least_fp32(targets.features), dim=2)
        if self.queue is None:
            return Output((2 - 2 * (z * theirs).sum(2)).mean())
        rows, losses = self.queue.rows.to(z.dtype), []
        for view in range(z.shape[1]):
            losses.append(similarity_kl(z[:, view], theirs[:, view], rows, rows, self.temperature, self.temperature))
        return Output(torch.stack(losses).mean(), staged=TeacherRows(theirs))

    def after_step(self, staged: TeacherRows, progress: float) -> None:
        if self.queue:
            self.queue.commit(*staged.features.unbind(1))
