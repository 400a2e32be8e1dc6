"""OFD: Heo, Kim, Yun, Park, Kwak, Choi, "A comprehensive overhaul of feature distillation", ICCV 2019, arXiv 1904.01866.

After each of the last three stages, before the ReLU. The teacher's responses are raised to a margin, the mean of the negative
ones in that channel; where that target is negative, a student's response that lies lower costs nothing (eqs. 3–5). A 1×1
convolution and BatchNorm bring the student to the teacher's channels; an earlier stage weighs half of the next.
Change: the margin is the mean of the negative responses seen so far in training, which the paper allows beside the formula from
BatchNorm's weights that the authors' code has; so a teacher needs no BatchNorm there. In the first step it is 0.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.method import Batch, Output, Record, Traits, at_least_fp32
from core.processes import gather
from distill.losses import same_size
from distill.method import Student, Targets, WithMaps
from distill.pre_activation import PreActivation


@dataclass(frozen=True)
class Negatives(Record):
    """Of each stage's teacher map: the mean over positions of what is below 0, and the share of positions that are."""

    sums: tuple[Tensor, ...]  # B,C
    shares: tuple[Tensor, ...]  # B,C


class OFD(WithMaps):
    maps = 3
    before_relu = True
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        widths = [(ours[0], theirs[0]) for ours, theirs in self.shapes]
        self.connectors = nn.ModuleList([nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b)) for a, b in widths])
        for i, (_, width) in enumerate(widths):
            self.register_buffer(f"sum{i}", torch.zeros(width, dtype=torch.float64))
            self.register_buffer(f"share{i}", torch.zeros(width, dtype=torch.float64))
        self.read = PreActivation(encoder, self.maps)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        maps, features = self.read(batch.views[0])
        return (features, *maps)

    def margin(self, i: int) -> Tensor:
        """C: of stage i"""
        seen = getattr(self, f"share{i}")
        return getattr(self, f"sum{i}") / torch.where(seen > 0, seen, 1.0)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        losses, sums, shares = [], [], []
        for i, (connect, ours, theirs) in enumerate(zip(self.connectors, student.maps, teacher.maps, strict=True)):
            theirs = at_least_fp32(theirs)
            s, t = same_size(at_least_fp32(connect(ours)), theirs)
            losses.append(partial_distance(s, t, self.margin(i).to(t.dtype)) / 2 ** (self.maps - 1 - i))
            sums.append(theirs.clamp(max=0).mean((2, 3)))
            shares.append((theirs < 0).to(theirs.dtype).mean((2, 3)))
        return Output(torch.stack(losses).sum(), staged=Negatives(tuple(sums), tuple(shares)))

    def after_step(self, staged: Negatives, progress: float) -> None:
        for i, (found, share) in enumerate(zip(staged.sums, staged.shares, strict=True)):
            getattr(self, f"sum{i}").add_(gather(found).double().sum(0))
            getattr(self, f"share{i}").add_(gather(share).double().sum(0))


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Sum of squares over channels and positions, mean over images, but where s ≤ max(t, m) ≤ 0.  B,C,h,w, B,C,h,w and C"""
    target = torch.maximum(teacher, margin.view(-1, 1, 1))
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).flatten(1).sum(1).mean()
