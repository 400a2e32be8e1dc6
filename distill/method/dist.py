"""DIST: Huang, You, Wang, Qian, Xu, "Knowledge distillation from a stronger teacher", NeurIPS 2022, arXiv 2205.10536.

Correlation in place of KL: over classes for each image, and over the global batch's images for each class.
"""
from torch import nn

from core.method import Output, at_least_fp32, check_natural, check_positive
from distill.losses import dist
from distill.method import Labelled, Student, Targets


class DIST(Labelled):
    needs = ("logits",)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, beta: float, gamma: float, temperature: float
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        check_natural(beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        logits = at_least_fp32(student.logits), at_least_fp32(teacher.logits)
        return Output(dist(*logits, self.beta, self.gamma, self.temperature))
