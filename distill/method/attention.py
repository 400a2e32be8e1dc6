"""AT: Zagoruyko, Komodakis, "Paying more attention to attention: improving the performance of convolutional neural
networks via attention transfer", ICLR 2017, arXiv 1612.03928. Activation-based, after each of the last three stages.
"""
from core.method import Output, Traits, at_least_fp32
from distill.losses import attention
from distill.method import Student, Targets, WithMaps


class AttentionTransfer(WithMaps):
    maps = 3
    traits = Traits(views=1, per_image=True, needs_labels=True)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        pairs = zip(student.maps, teacher.maps, strict=True)
        return Output(sum(attention(at_least_fp32(ours), at_least_fp32(theirs)) for ours, theirs in pairs))
