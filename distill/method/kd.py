"""KD: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.

`standardise` brings both networks' logits to mean 0 and deviation 1 first: Sun, Ren, Li, Wang, Cao, "Logit standardization in
knowledge distillation", CVPR 2024, arXiv 2403.01427. With `unbiased` the deviation divides by K − 1 of K classes, as in the
authors' code and torchdistill. Without, it divides by K, as runs from before this setting did. At ten classes that makes logits
√(10/9) = 1.05 times as large, and the loss about 1.11 times.
"""
from torch import nn

from core.method import check_positive, exact
from distill.losses import kd, standardised
from distill.method import Labelled


class KD(Labelled):
    wants = ("logits",)
    per_image = True

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, temperature: float, standardise: bool,
        unbiased: bool = True,
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        if standardise and classes < 2:
            raise ValueError(f"method.standardise={standardise}: one class has no deviation to divide by; use false")
        self.temperature, self.standardise, self.unbiased = temperature, standardise, unbiased

    def distil(self, features, logits, told, labels, progress):
        found, told = exact(logits), exact(told[0])
        if self.standardise:
            found, told = (standardised(z, self.unbiased) for z in (found, told))
        return kd(found, told, self.temperature)
