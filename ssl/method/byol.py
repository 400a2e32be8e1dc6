"""BYOL: Grill et al., "Bootstrap your own latent: a new approach to self-supervised learning", NeurIPS 2020,
arXiv 2006.07733.

No negatives: a predictor on the online network regresses the projection that a moving average of the network makes of
the other view. The momentum rises to 1 by a cosine (§3.1).
"""
import torch
from torch import Tensor, nn

from core.method import Batch, Method, Output, Traits, at_least_fp32, each_view, ema_copy, ema_update_, features_of
from core.numerics import cosine as cosine_similarity
from core.schedule import cosine
from ssl.method import TeacherFeatures, check_constants, pairs
from vision.heads import mlp


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """mean_i ‖q̄_i − z̄_i‖² = 2 − 2·cos(q_i, z_i), eq. 2; q̄, z̄ normalised.  Both B,P, any length."""
    return 2 - 2 * cosine_similarity(at_least_fp32(predictions), at_least_fp32(targets)).mean()


class BYOL(Method):
    traits = Traits(per_image=True)

    def __init__(
        self, encoder: nn.Module, hidden: int, dim: int, predictor_hidden: int, momentum: tuple[float, float]
    ):
        super().__init__()
        check_constants(momentum=momentum)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim])
        self.predictor = mlp([dim, predictor_hidden, dim])
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector))
        self.momentum = tuple(momentum)

    @torch.no_grad()
    def targets(self, batch: Batch) -> TeacherFeatures:
        return TeacherFeatures(features_of(self.teacher[0], batch.views[: self.traits.views]))

    def objective(self, features: Tensor, targets: TeacherFeatures, progress: float) -> Output:
        with torch.no_grad():
            z = each_view(self.teacher[1], targets.features)  # B,2,P
        q = each_view(self.predictor, each_view(self.projector, features))  # B,V,P
        losses = [byol_loss(q[:, view], z[:, target]) for target, view in pairs(q.shape[1])]
        loss = 2 * torch.stack(losses).mean()  # L + L̃, eq. 2
        return Output(loss, {"momentum": cosine(progress, *self.momentum)})

    def after_step(self, staged: None, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
