"""Losses of classifiers."""
import torch
from torch import Tensor

from core.processes import total, world_size


def classification_loss(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy with label smoothing ε, class weights w and focusing γ, over the global batch.

    −Σᵢ Σₖ wₖ · tᵢₖ · (1 − pᵢₖ)^γ · log pᵢₖ / Σᵢ Σₖ wₖ yᵢₖ,   t = (1 − ε) y + ε / K

    logits: B,K; targets y: B,K, rows that sum to 1 (one-hot, or mixed); weights: K. Label smoothing: Szegedy et al. 2016
    (arXiv 1512.00567, §7); focal loss: Lin et al. 2017 (arXiv 1708.02002, eq. 5), of a softmax. With γ = 0 it is torch's
    cross_entropy of class indices, which also divides by the weights of the labels. The mean over processes is the loss
    of their joined batch.
    """
    logp = logits.float().log_softmax(1)
    smooth = targets * (1 - smoothing) + smoothing / logits.shape[1]
    terms = smooth * logp if gamma == 0 else smooth * logp * (1 - logp.exp()).clamp(min=1e-12) ** gamma
    if weights is None:
        return -terms.sum() / len(logits)
    size = total((weights * targets).sum()) / world_size()
    return -(weights * terms).sum() / size


def class_weights(counts: Tensor) -> Tensor:
    """Weights with which every class counts as much: N / (K · Nₖ), as scikit-learn's "balanced"; absent classes have 1.

    counts: K, images of each class.
    """
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 1.0).float()
