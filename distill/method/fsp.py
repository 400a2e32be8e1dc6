"""FSP: Yim, Joo, Bae, Kim, "A gift from knowledge distillation: fast optimization, network minimization and transfer learning",
CVPR 2017. Between the last three stages.

The matrix of inner products between the channels of one stage and those of the next, over positions, is to be the teacher's
(eqs. 1 and 2). Changes: it is added to the classifier's loss instead of coming before it; the larger map is averaged, where the
paper takes maxima; where widths differ, which the paper excludes, a 1×1 convolution brings the student's to the teacher's.
"""
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.method import Output, Traits, at_least_fp32
from distill.losses import same_size
from distill.method import Student, Targets, WithMaps


class FSP(WithMaps):
    maps = 3
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        widths = [(ours[0], theirs[0]) for ours, theirs in self.shapes]
        self.connectors = nn.ModuleList([nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False) for a, b in widths])

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        ours = [connect(x) for connect, x in zip(self.connectors, student.maps, strict=True)]
        pairs = zip(pairwise(ours), pairwise(teacher.maps), strict=True)
        return Output(torch.stack([(flow(*a) - flow(*b)).square().mean() for a, b in pairs]).sum())


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Mean over positions of products of channels.  B,C,h,w and B,E,h',w' → B,C,E"""
    a, b = (at_least_fp32(x).flatten(2) for x in same_size(first, second))
    return a @ b.mT / a.shape[2]
