"""SP: Tung, Mori, "Similarity-preserving knowledge distillation", ICCV 2019, arXiv 1907.09682. On the last feature map."""
from core.method import Output, at_least_fp32
from distill.losses import similarity_preserving
from distill.method import Student, Targets, WithMaps


class SimilarityPreserving(WithMaps):
    maps = 1

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        return Output(similarity_preserving(at_least_fp32(student.maps[-1]), at_least_fp32(teacher.maps[-1])))
