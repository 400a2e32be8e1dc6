"""KD: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.

`standardise` brings both networks' logits to mean 0 and deviation 1 first: Sun, Ren, Li, Wang, Cao, "Logit standardization in
knowledge distillation", CVPR 2024, arXiv 2403.01427. With `unbiased` the deviation divides by K − 1 of K classes, as in the
authors' code and torchdistill. Without, it divides by K, as runs from before this setting did. At ten classes that makes logits
√(10/9) = 1.05 times as large, and the loss about 1.11 times.
"""
from torch import nn

from core.method import Output, Traits, at_least_fp32, check_positive
from distill.losses import kd, standardised
from distill.method import Labelled, Student, Targets


class KD(Labelled):
    needs = ("logits",)
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, temperature: float, standardise: bool,
        unbiased: bool = True,
    ):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_positive(temperature=temperature)
        if standardise and classes < 2:
            raise ValueError(f"method.standardise={standardise}: one class has no deviation to divide by; use false")
        self.temperature, self.standardise, self.unbiased = temperature, standardise, unbiased

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        ours, theirs = at_least_fp32(student.logits), at_least_fp32(teacher.logits)
        if self.standardise:
            ours, theirs = (standardised(z, self.unbiased) for z in (ours, theirs))
        return Output(kd(ours, theirs, self.temperature))
