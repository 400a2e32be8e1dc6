"""KD: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.

`standardise` brings both networks' logits to mean 0 and deviation 1 first: Sun, Ren, Li, Wang, Cao, "Logit standardization in
knowledge distillation", CVPR 2024, arXiv 2403.01427.
"""
from torch import nn

from core.method import check_positive, exact
from distill.losses import kd, standardised
from distill.method import Labelled


class KD(Labelled):
    wants = ("logits",)
    per_image = True

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, temperature: float, standardise: bool
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        self.temperature, self.standardise = temperature, standardise

    def distil(self, features, logits, told, labels, progress):
        found, told = exact(logits), exact(told[0])
        if self.standardise:
            found, told = standardised(found), standardised(told)
        return kd(found, told, self.temperature)
