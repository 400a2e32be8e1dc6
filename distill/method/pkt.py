"""PKT: Passalis, Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV 2018, arXiv 1803.10837.

`ce: 0` distils without labels.
"""
from core.method import Output, at_least_fp32
from distill.losses import probabilistic_transfer
from distill.method import Labelled, Student, Targets


class PKT(Labelled):
    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        return Output(probabilistic_transfer(at_least_fp32(student.features), at_least_fp32(teacher.features)))
