"""SEED: Fang, Wang, Wang, Zhang, Yang, Liu, "SEED: self-supervised distillation for visual representation", ICLR 2021,
arXiv 2101.04731.

Student and teacher look at the same view; the student's similarities to a queue of teacher embeddings, and to the image's own,
are to be the teacher's (eqs. 3–6). Our teachers are encoders without their pretraining head, so embeddings are the encoder's
features of length 1, less the queue's mean: features behind a ReLU all point one way otherwise.
"""
import torch
from torch import Tensor, nn

from core.memory import Queue
from core.method import Output, Traits, at_least_fp32, check_positive, each_view
from core.numerics import unit
from distill.losses import soft_cross_entropy
from distill.method import Distillation, Targets, TeacherRows, projector


class SEED(Distillation):
    traits = Traits(per_image=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, hidden: int, queue_size: int, temperature: float,
        teachers_temperature: float,
    ):
        super().__init__(encoder, teacher)
        check_positive(temperature=temperature, teachers_temperature=teachers_temperature)
        self.projector = projector(encoder.dim, teacher.dim, hidden)
        self.queue = Queue(queue_size, teacher.dim)
        self.temperatures = temperature, teachers_temperature

    def prepare(self, images: int, batch_size: int) -> list[str]:
        return self.queue.fit(images, batch_size)

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        z = unit(at_least_fp32(each_view(self.projector, features)), dim=2)  # B,V,P
        theirs = unit(at_least_fp32(targets.features), dim=2)
        mean = self.queue.rows.mean(0).to(theirs.dtype)
        anchors = unit(self.queue.rows.to(theirs.dtype) - mean, dim=1)
        losses = []
        for view in range(z.shape[1]):
            centered = unit(theirs[:, view] - mean, dim=1)
            losses.append(self.compare(z[:, view], centered, anchors))
        return Output(torch.stack(losses).mean(), staged=TeacherRows(theirs))

    def compare(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        """Anchors are the queue and each image's own teacher embedding, whose similarity to the teacher's is 1."""
        ours, theirs = self.temperatures
        student_logits = torch.cat([(student * teacher).sum(1, keepdim=True), student @ anchors.T], 1) / ours
        teacher_logits = torch.cat([teacher.new_ones(len(teacher), 1), teacher @ anchors.T], 1) / theirs
        return soft_cross_entropy(student_logits, teacher_logits)

    def after_step(self, staged: TeacherRows, progress: float) -> None:
        self.queue.commit(*staged.features.unbind(1))
