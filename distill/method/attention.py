"""AT: Zagoruyko, Komodakis, "Paying more attention to attention: improving the performance of convolutional neural
networks via attention transfer", ICLR 2017, arXiv 1612.03928. Activation-based, after each of the last three stages.
"""
from core.method import exact
from distill.losses import attention
from distill.method import WithMaps


class AttentionTransfer(WithMaps):
    maps = 3
    per_image = True

    def distil(self, features, logits, told, labels, progress, pairs):
        return sum(attention(exact(student), exact(teacher)) for student, teacher in pairs)
