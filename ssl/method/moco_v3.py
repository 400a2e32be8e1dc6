"""MoCo v3: Chen, Xie, He, "An empirical study of training self-supervised vision transformers", ICCV 2021,
arXiv 2104.02057, algorithm 1.

No queue: the negatives are the other keys of the global batch. Queries pass a predictor; keys come from a moving
average of encoder and projector. For ViT, the patch embedding stays at its random initialisation (§4.1) and the
positions are fixed 2-D sines and cosines. ResNet: projector of 2 layers, predictor without a last BatchNorm; ViT: 3
layers, with one.
"""
import torch
from torch import Tensor, nn

from core.method import Batch, Method, Output, at_least_fp32, each_view, ema_copy, ema_update_, features_of
from core.numerics import unit
from core.schedule import cosine
from ssl.losses import contrastive, global_rows
from ssl.method import TeacherFeatures, check_constants, pairs
from vision.heads import mlp
from vision.stems import fix_patch_embedding


class MoCoV3(Method):
    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        temperature: float,
        momentum: tuple[float, float],
        projector_layers: int,
        predictor_norm: bool,
        frozen_patch_embedding: bool,
    ):
        super().__init__()
        check_constants(temperature, momentum)
        if frozen_patch_embedding:
            fix_patch_embedding(encoder)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, *[hidden] * (projector_layers - 1), dim], last_norm="plain")
        self.predictor = mlp([dim, hidden, dim], last_norm="plain" if predictor_norm else None)
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector))
        self.temperature, self.momentum = temperature, tuple(momentum)

    @torch.no_grad()
    def targets(self, batch: Batch) -> TeacherFeatures:
        return TeacherFeatures(features_of(self.teacher[0], batch.views[: self.traits.views]))

    def objective(self, features: Tensor, targets: TeacherFeatures, progress: float) -> Output:
        with torch.no_grad():
            keys = each_view(self.teacher[1], targets.features)  # B,2,P
        queries = each_view(self.predictor, each_view(self.projector, features))  # B,V,P
        losses = [self.contrast(queries[:, view], keys[:, t]) for t, view in pairs(queries.shape[1])]
        loss = 2 * torch.stack(losses).mean()  # ctr(q1,k2) + ctr(q2,k1)
        return Output(loss, {"momentum": cosine(progress, *self.momentum)})

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        keys, own = global_rows(unit(at_least_fp32(keys), dim=1))
        queries = unit(at_least_fp32(queries), dim=1)
        return 2 * self.temperature * contrastive(queries, keys, own, self.temperature)

    def after_step(self, staged: None, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
