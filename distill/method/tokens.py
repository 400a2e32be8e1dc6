"""Dense distillation without labels: the student's features and patches become those of one or several foundation teachers.

Features (class token, or pooled) by their cosine, after the mean of the teacher's is taken off; patches by squared error or
smooth L1 to PHI-S targets (AM-RADIO, arXiv 2312.06709; PHI-S, 2410.01680), on the teacher's grid. Of several teachers each
image keeps the one that it is worst at, and every other with probability 1 − `teacher_drop` (UNIC, arXiv 2408.05088, §3.3).
Change to UNIC: an image's loss is the mean over the teachers that it keeps, so that images weigh alike and pieces of a batch
add up; there each kept pair weighs alike.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Output, at_least_fp32, check_natural, check_positive, check_share
from core.numerics import cosine
from distill.with_tokens import TokenTargets, WithTokens

PATCH_LOSSES = ("mse", "smooth_l1")


class TokenDistillation(WithTokens):
    def __init__(
        self, encoder: nn.Module, teacher, classes: int, *, heads: str, hidden: int, components: int, patch_loss: str,
        feature_weight: float, patch_weight: float, teacher_drop: float,
    ):
        super().__init__(encoder, teacher, heads, hidden, components)
        check_positive(hidden=hidden)
        check_natural(feature_weight=feature_weight, patch_weight=patch_weight)
        check_share(teacher_drop=teacher_drop)
        if patch_loss not in PATCH_LOSSES:
            raise ValueError(f"method.patch_loss={patch_loss}: there are {', '.join(PATCH_LOSSES)}")
        self.patch_loss, self.weights, self.teacher_drop = patch_loss, (feature_weight, patch_weight), teacher_drop

    def objective(self, features: tuple[Tensor, ...], targets: TokenTargets, progress: float) -> Output:
        pooled, patches = [], []
        for i, basis in enumerate(self.tokens.bases):
            ours, map_ = (at_least_fp32(x) for x in features[2 * i : 2 * i + 2])
            pooled.append(1 - cosine(ours, targets.features[i].to(ours.dtype) - basis.features_mean.to(ours.dtype)))
            patches.append(self._error(map_, targets.maps[i].to(map_.dtype)).flatten(1).mean(1))
        a, b = torch.stack(pooled, 1), torch.stack(patches, 1)  # B,T
        losses = self.weights[0] * a + self.weights[1] * b
        keep = kept_teachers(losses.detach(), targets.draws, self.teacher_drop)
        loss = ((losses * keep).sum(1) / keep.sum(1)).mean()
        return Output(loss, {"features": a.detach().mean(), "patches": b.detach().mean()})

    def _error(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.patch_loss == "mse":
            return F.mse_loss(ours, theirs, reduction="none")
        return F.smooth_l1_loss(ours, theirs, reduction="none")


def kept_teachers(losses: Tensor, draws: Tensor, drop: float) -> Tensor:
    """1 for the teacher with an image's largest loss and for others whose draw is `drop` or more, else 0.  B,T → B,T"""
    worst = F.one_hot(losses.argmax(1), losses.shape[1]).bool()
    return (worst | (draws >= drop)).to(losses.dtype)
