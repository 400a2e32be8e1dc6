"""SimKD: Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge distillation with the reused teacher classifier", CVPR 2022,
arXiv 2203.14001.

The student learns the teacher's features by squared error, and the teacher's classifier is taken over: no label is needed.
Change: the projector is linear and acts on the pooled features (the paper's best is three convolutions on the map), so that
it merges into the classifier and the student costs nothing more at inference.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Output, Traits, at_least_fp32
from distill.method import Distillation, Targets


class SimKD(Distillation):
    traits = Traits(views=1, per_image=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int):
        super().__init__(encoder, teacher, classes)
        if teacher.head is None:
            raise ValueError(f"teacher={teacher.name}: simkd takes over the linear classifier of one classifier.safetensors")
        self.projector = nn.Linear(encoder.dim, teacher.dim)

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        return Output(F.mse_loss(at_least_fp32(self.projector(features[:, 0])), at_least_fp32(targets.features[:, 0])))

    @property
    @torch.no_grad()
    def head(self) -> nn.Linear:
        """Projector and the teacher's classifier as one layer: W (A x + b) + c."""
        theirs, ours = self.teacher.head, self.projector
        merged = nn.Linear(ours.in_features, theirs.out_features, device=ours.weight.device, dtype=ours.weight.dtype)
        merged.weight.copy_(theirs.weight.to(ours.weight) @ ours.weight)
        merged.bias.copy_(theirs.weight.to(ours.weight) @ ours.bias + (0 if theirs.bias is None else theirs.bias.to(ours.bias)))
        return merged
