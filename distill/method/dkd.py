"""DKD: Zhao, Cui, Song, Qiu, Liang, "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679.

The weight of the teacher rises over the first `warmup` of the run, as in the authors' code (20 of 240 epochs).
"""
from torch import nn

from core.method import Output, Traits, at_least_fp32, check_natural, check_positive
from distill.losses import dkd
from distill.method import Labelled, Student, Targets


class DKD(Labelled):
    needs = ("logits",)
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, alpha: float, beta: float,
        temperature: float, warmup: float,
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        check_natural(alpha=alpha, beta=beta, warmup=warmup)
        if classes < 3:
            raise ValueError("method=dkd: two classes leave nothing beside the target; use kd")
        self.alpha, self.beta, self.temperature, self.warmup = alpha, beta, temperature, warmup

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        share = min(1.0, progress / self.warmup) if self.warmup else 1.0
        logits = at_least_fp32(student.logits), at_least_fp32(teacher.logits)
        return Output(share * dkd(*logits, teacher.labels, self.alpha, self.beta, self.temperature))
