"""FitNets: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: hints for thin deep nets", ICLR 2015, arXiv 1412.6550.

The hint is the map before the last; a 1×1 convolution brings the student's channels to the teacher's (§3.1). As the
CIFAR-100 comparison has it (arXiv 1910.10699), the hint's loss is added to the classifier's instead of coming before it.
"""
from torch import nn
from torch.nn import functional as F

from core.method import Output, Traits, at_least_fp32
from distill.losses import same_size
from distill.method import Student, Targets, WithMaps


class FitNet(WithMaps):
    maps = 2
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        ours, theirs = self.shapes[0]
        self.regressor = nn.Conv2d(ours[0], theirs[0], 1)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        ours, theirs = same_size(student.maps[0], teacher.maps[0])
        return Output(F.mse_loss(at_least_fp32(self.regressor(ours)), at_least_fp32(theirs)))
