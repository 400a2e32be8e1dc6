"""DIST: Huang, You, Wang, Qian, Xu, "Knowledge distillation from a stronger teacher", NeurIPS 2022, arXiv 2205.10536.

Correlation in place of KL: over classes for each image, and over the global batch's images for each class.
"""
from torch import nn

from core.method import check_natural, check_positive, exact
from distill.losses import dist
from distill.method import Labelled


class DIST(Labelled):
    wants = ("logits",)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, beta: float, gamma: float, temperature: float
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        check_natural(beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def distil(self, features, logits, told, labels, progress):
        return dist(exact(logits), exact(told[0]), self.beta, self.gamma, self.temperature)
