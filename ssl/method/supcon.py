"""SupCon: Khosla et al., "Supervised contrastive learning", NeurIPS 2020, arXiv 2004.11362.

Uses labels: every image of a class is a positive. It is the upper reference for methods that see none.
The projection is two layers without BatchNorm, as in the authors' code.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, each_view
from core.numerics import unit
from core.processes import gather
from ssl.losses import global_rows, log_sum_exp
from ssl.method import check_constants, check_images
from vision.heads import mlp


def supcon_loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """mean_i −1/|P(i)| Σ_{p ∈ P(i)} log [ exp(z_i·z_p/T) / Σ_{a ≠ i} exp(z_i·z_a/T) ], eq. 2 (L_out), global batch.

    z: B,V,D, any length; labels: B int64. P(i): the other embeddings of i's class. Their similarities to i sum to one
    inner product with their sum, so no matrix of them is made. An embedding without any, of a class of one image seen in one
    view, adds 0 to the mean, as in the authors' code. Raises ValueError for one image in one view.
    """
    V = z.shape[1]
    check_images("supcon", len(z), 2 if V == 1 else 1, "one view of one image has nothing to be compared with")
    with torch.autocast(z.device.type, enabled=False):
        z = unit(at_least_fp32(z), dim=2).flatten(0, 1)  # B*V,D
        keys, own = global_rows(z)
        labels = gather(labels.repeat_interleave(V))  # W*B*V
        classes = torch.searchsorted(labels.sort().values, labels)  # a class's number: its first place in order
        count = torch.zeros_like(classes).index_add(0, classes, torch.ones_like(classes))[classes]
        sums = torch.zeros_like(keys).index_add(0, classes, keys)[classes[own]]  # B*V,D: of each row's class
        others = count[own] - 1  # B*V
        positives = (z * (sums - z)).sum(1) / others.clamp(min=1)
        terms = log_sum_exp(z, keys, temperature, own[:, None]) - positives / temperature
        return torch.where(others > 0, terms, 0.0).mean()


@dataclass(frozen=True)
class Labels(Record):
    labels: Tensor  # B int64


class SupCon(Method):
    traits = Traits(joint_views=True, static_step=True, needs_labels=True)

    def __init__(self, encoder: nn.Module, hidden: int, dim: int, temperature: float):
        super().__init__()
        check_constants(temperature)
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim], hidden_norm=False)
        self.temperature = temperature

    def targets(self, batch: Batch) -> Labels:
        return Labels(batch.labels)

    def objective(self, features: Tensor, targets: Labels, progress: float) -> Output:
        return Output(supcon_loss(each_view(self.projector, features), targets.labels, self.temperature))
