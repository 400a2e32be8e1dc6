"""SP: Tung, Mori, "Similarity-preserving knowledge distillation", ICCV 2019, arXiv 1907.09682. On the last feature map."""
from core.method import exact
from distill.losses import similarity_preserving
from distill.method import WithMaps


class SimilarityPreserving(WithMaps):
    maps = 1

    def distil(self, features, logits, told, labels, progress, pairs):
        student, teacher = pairs[-1]
        return similarity_preserving(exact(student), exact(teacher))
