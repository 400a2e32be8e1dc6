"""ICKD-C: Liu, Huang, Lin, Xia, Wang, "Exploring inter-channel correlation for diversity-preserved knowledge distillation",
ICCV 2021, arXiv 2202.03680. On the last feature map.

Inner products of all pairs of channels, rows at length 1, are to be the teacher's (eqs. 4 and 5); a 1×1 convolution and
BatchNorm bring the student to the teacher's channels.
"""
from torch import Tensor, nn

from core.method import Output, Traits, at_least_fp32
from core.numerics import unit
from distill.method import Student, Targets, WithMaps


class ICKD(WithMaps):
    maps = 1
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        ours, theirs = self.shapes[-1]
        self.connector = nn.Sequential(nn.Conv2d(ours[0], theirs[0], 1, bias=False), nn.BatchNorm2d(theirs[0]))

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        ours, theirs = (_correlations(at_least_fp32(x)) for x in (self.connector(student.maps[-1]), teacher.maps[-1]))
        return Output((ours - theirs).square().sum((1, 2)).mean() / ours.shape[1])


def _correlations(x: Tensor) -> Tensor:
    """B,C,h,w → B,C,C"""
    rows = x.flatten(2)
    return unit(rows @ rows.mT, dim=2)
