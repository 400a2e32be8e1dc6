"""ReviewKD: Chen, Liu, Zhao, Jia, "Distilling knowledge via knowledge review", CVPR 2021, arXiv 2104.09044.

The features and the last three maps, from the deepest on: each is brought to one width and fused by learned attention with what
came from the deeper one, enlarged (ABF, fig. 3b); a 3×3 convolution makes the teacher's map of it, before its ReLU. Maps are
compared at their size and averaged to 4×4, 2×2 and 1×1, with weights 1, ½, ¼, ⅛ divided by their sum (HCL, fig. 3c).
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Output, Traits, at_least_fp32, check_natural
from distill.method import Student, Targets, WithMaps

WIDEST = 512


class Fusion(nn.Module):
    """A level and what came from the deeper one → the teacher's map, and what goes on."""

    def __init__(self, width: int, middle: int, out: int, size: tuple[int, ...], deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.leave = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.size = size
        for layer in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            ours, theirs = self.attention(torch.cat([x, deeper], 1)).sigmoid().split(1, dim=1)
            x = x * ours + deeper * theirs
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.leave(x), x


class ReviewKD(WithMaps):
    maps = 3
    needs = ("features",)
    before_relu = True
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, warmup: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        check_natural(warmup=warmup)
        self.warmup = warmup
        shapes = [*self.shapes, ((encoder.dim, 1, 1), (teacher.dim, 1, 1))]
        middle = min(WIDEST, encoder.dim)
        self.fusions = nn.ModuleList([
            Fusion(ours[0], middle, theirs[0], tuple(theirs[1:]), deepest=i == len(shapes) - 1)
            for i, (ours, theirs) in enumerate(shapes)
        ])

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        levels, deeper, losses = [*student.maps, student.features[:, :, None, None]], None, []
        theirs = [*teacher.maps, teacher.features[:, :, None, None]]
        for fusion, level, target in reversed(list(zip(self.fusions, levels, theirs, strict=True))):
            found, deeper = fusion(level, deeper)
            losses.append(hierarchical(found, target))
        rise = min(progress / self.warmup, 1.0) if self.warmup else 1.0
        return Output(torch.stack(losses).sum() * rise)


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error at the maps' size and of their averages at smaller ones.  B,C,h,w → scalar"""
    ours, theirs = at_least_fp32(student), at_least_fp32(teacher)
    losses, weights = [F.mse_loss(ours, theirs)], [1.0]
    for side in (4, 2, 1):
        if side < ours.shape[2]:
            losses.append(F.mse_loss(*(F.adaptive_avg_pool2d(x, side) for x in (ours, theirs))))
            weights.append(weights[-1] / 2)
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
