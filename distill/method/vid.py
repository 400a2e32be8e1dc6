"""VID: Ahn, Hu, Damianou, Lawrence, Dai, "Variational information distillation for knowledge transfer", CVPR 2019,
arXiv 1904.05835. After each of the last three stages.

The teacher's map is a Gaussian about a function of the student's, with a variance of each channel that is learned (eqs. 4–6).
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Output, Traits, at_least_fp32
from distill.losses import same_size
from distill.method import Student, Targets, WithMaps

LEAST, START = 1e-5, 5.0  # of the variance: its least value, and the one that it begins with


class Gaussian(nn.Module):
    """mean ½ ((μ(s) − t)² / σ² + log σ²), μ three 1×1 convolutions.  B,C,h,w and B,E,h,w → scalar"""

    def __init__(self, width: int, teachers: int):
        super().__init__()
        one = [nn.Conv2d(a, teachers, 1, bias=False) for a in (width, teachers, teachers)]
        self.mean = nn.Sequential(one[0], nn.ReLU(), one[1], nn.ReLU(), one[2])
        self.scale = nn.Parameter(torch.full((teachers,), math.log(math.expm1(START - LEAST))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = same_size(student, teacher)
        variance = F.softplus(at_least_fp32(self.scale)) + LEAST
        error = (at_least_fp32(self.mean(ours)) - at_least_fp32(theirs)).square()
        return 0.5 * (error / variance.view(-1, 1, 1) + variance.log().view(-1, 1, 1)).mean()


class VID(WithMaps):
    maps = 3
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        self.gaussians = nn.ModuleList([Gaussian(ours[0], theirs[0]) for ours, theirs in self.shapes])

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        triples = zip(self.gaussians, student.maps, teacher.maps, strict=True)
        return Output(torch.stack([gaussian(ours, theirs) for gaussian, ours, theirs in triples]).sum())
