"""RKD: Park, Kim, Lu, Cho, "Relational knowledge distillation", CVPR 2019, arXiv 1904.05068. With labels, or without (ce: 0).

Relations are those of the global batch.
"""
from torch import nn

from core.method import Output, at_least_fp32, check_natural
from distill.losses import relational_angle, relational_distance
from distill.method import Labelled, Student, Targets


class RKD(Labelled):
    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, distance: float, angle: float):
        super().__init__(encoder, teacher, classes, ce, weight=1.0)
        check_natural(distance=distance, angle=angle)
        self.distance, self.angle = distance, angle

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        ours, theirs = at_least_fp32(student.features), at_least_fp32(teacher.features)
        return Output(self.distance * relational_distance(ours, theirs) + self.angle * relational_angle(ours, theirs))
