"""NST: Huang, Wang, "Like what you like: knowledge distill via neuron selectivity transfer", 2017, arXiv 1707.01219.

After each of the last three stages, the squared maximum mean discrepancy between the student's and the teacher's channels, each
a vector of positions at length 1, with the polynomial kernel (x·y)² (eqs. 5–9).
"""
import torch
from torch import Tensor

from core.method import Output, Traits, at_least_fp32
from core.numerics import unit
from distill.losses import same_size
from distill.method import Student, Targets, WithMaps


class NST(WithMaps):
    maps = 3
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        pairs = zip(student.maps, teacher.maps, strict=True)
        return Output(torch.stack([discrepancy(ours, theirs) for ours, theirs in pairs]).sum())


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over images of mean k(s, s') + mean k(t, t') − 2 mean k(s, t), of pairs of channels.  B,C,h,w, B,E,h,w → scalar"""
    ours, theirs = (unit(at_least_fp32(x).flatten(2), dim=2) for x in same_size(student, teacher))
    if max(ours.shape[1], theirs.shape[1]) >= ours.shape[2]:  # the same number from N×N matrices: Σ (s·t)² = tr(SᵀS TᵀT)
        apart = ours.mT @ ours / ours.shape[1] - theirs.mT @ theirs / theirs.shape[1]
        return apart.square().sum((1, 2)).mean()
    return _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().mean()
