"""RKD: Park, Kim, Lu, Cho, "Relational knowledge distillation", CVPR 2019, arXiv 1904.05068. With labels, or without (ce: 0).

Relations are those of the global batch.
"""
from torch import nn

from core.method import check_natural, exact
from distill.losses import relational_angle, relational_distance
from distill.method import Labelled


class RKD(Labelled):
    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, distance: float, angle: float):
        super().__init__(encoder, teacher, classes, ce, weight=1.0)
        check_natural(distance=distance, angle=angle)
        self.distance, self.angle = distance, angle

    def distil(self, features, logits, told, labels, progress):
        student, teacher = exact(features), exact(told[0])
        return self.distance * relational_distance(student, teacher) + self.angle * relational_angle(student, teacher)
