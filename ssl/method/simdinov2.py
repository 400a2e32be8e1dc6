"""SimDINOv2: Wu, Zhang, Pai, Wang, Singh, Yang, Gao, Ma, "Simplifying DINO via coding rate regularization", ICML 2025,
arXiv 2502.10385.

DINOv2 without prototypes, Sinkhorn-Knopp, temperatures and KoLeo: crops are pulled together by the cosine of their embeddings,
masked patches to the teacher's, and the coding rate of a batch, which is large where embeddings fill many directions, keeps
them from collapse. The covariance is that of the global batch.
"""
import dataclasses

import torch
from torch import Tensor, nn

from core.method import Output, at_least_fp32, check_natural, check_positive
from core.numerics import unit
from core.processes import total, world_size
from ssl.masked_crops import GLOBAL, MaskedDistillation, Teacher, layer_rates, masked_rows, masking
from ssl.method import check_views
from vision.heads import mlp


def coding_rate(z: Tensor, eps: float) -> Tensor:
    """γ · ½ log det(I + P/(n·ε) ZᵀZ) over the n images of the global batch, γ = (P + n)/(P·n); by Cholesky.  z: B,P"""
    with torch.autocast(z.device.type, enabled=False):
        z = at_least_fp32(z)
        n, P = len(z) * world_size(), z.shape[1]
        gram = total(z.T @ z)
        factor = torch.linalg.cholesky(torch.eye(P, dtype=z.dtype, device=z.device) + P / (n * eps) * gram)
        return (P + n) / (P * n) * factor.diagonal().log().sum()


def alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine over pairs of different crops.  student: B,V,P; teacher: B,G,P, of the first G; all of unit length"""
    check_views(student.shape[1])
    products = torch.einsum("bgp,bvp->gv", teacher, student) / len(student)
    G, V = products.shape
    return (products.sum() - products.diagonal().sum()) / (G * V - G)


class Heads(nn.Module):
    """DINO's head without prototypes, for class tokens, and for patches the same or one of their own."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, separate: bool):
        super().__init__()
        self.cls, self.own = (
            mlp([dim, hidden, hidden, bottleneck], hidden_norm=False, activation=nn.GELU) if wanted else None
            for wanted in (True, separate)
        )
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def classes(self, features: Tensor) -> Tensor:
        """…,D → …,P of unit length"""
        return unit(at_least_fp32(self.cls(features)), dim=-1)

    def patches(self, features: Tensor) -> Tensor:
        """…,D → …,P of unit length"""
        return unit(at_least_fp32((self.cls if self.own is None else self.own)(features)), dim=-1)


class SimDINOv2(MaskedDistillation):
    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        separate_heads: bool,
        eps: float,
        rate_weight: float,
        rate_with_teacher: bool,
        momentum: tuple[float, float],
        mask_ratio: tuple[float, float],
        masked_crops: float,
        patch_weight: float,
        layer_decay: float,
        patch_lr: float,
    ):
        masked = masking(encoder, "method=simdinov2", mask_ratio, masked_crops)
        check_positive(eps=eps)
        check_natural(rate_weight=rate_weight, patch_weight=patch_weight)
        super().__init__(encoder, Heads(encoder.dim, hidden, dim, separate_heads), masked, momentum)
        self.eps, self.rate_weight, self.with_teacher, self.patch_weight = eps, rate_weight, rate_with_teacher, patch_weight
        self.traits = dataclasses.replace(self.traits, lr_scale=layer_rates(encoder, layer_decay, patch_lr))

    def objective(self, features: tuple[Tensor, ...], targets: Teacher, progress: float) -> Output:
        cls, patches = features
        check_views(cls.shape[1])
        rows = masked_rows(targets.masked)
        student, predicted = self.projector.classes(cls), self.projector.patches(patches[rows.chosen])
        with torch.no_grad():
            teacher = self.teacher[1].classes(targets.cls)
            wanted = self.teacher[1].patches(targets.patches[rows.chosen])
        with torch.autocast(cls.device.type, enabled=False):
            spread = (student[:, :GLOBAL] + teacher) / 2 if self.with_teacher else student[:, :GLOBAL]
            rate = sum(coding_rate(one, self.eps) for one in spread.unbind(1)) / GLOBAL
            aligned, of_patches = alignment(student, teacher), rows.mean((predicted * wanted).sum(1))
            loss = -aligned - self.patch_weight * of_patches - self.rate_weight * rate
        scalars = {"cls_alignment": aligned.detach(), "patch_alignment": of_patches.detach(), "coding_rate": rate.detach(),
                   "momentum": self.momentum_at(progress)}
        if self.logs:
            scalars |= self.prediction_scalars(patches, targets.patches, targets.places, targets.masked)
        return Output(loss, scalars)
