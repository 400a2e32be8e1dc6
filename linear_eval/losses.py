"""Losses of classifiers."""
import torch
from torch import Tensor
from torch.nn import functional as F

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


def multilabel_loss(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Binary cross-entropy of each class, the mean over images and classes.

    −mean [w t · (1 − p)^γ log p + (1 − t) · p^γ log(1 − p)],   t = (1 − ε) y + ε / 2

    logits: B,K; targets y: B,K in 0..1; weights w: K, of a class's positive images, as torch's pos_weight. With γ: focal loss
    (Lin et al. 2017, arXiv 1708.02002, eq. 4), torchvision's sigmoid_focal_loss with alpha=-1.
    """
    logits = logits.float()
    smooth = targets * (1 - smoothing) + smoothing / 2
    positive, negative = F.logsigmoid(logits), F.logsigmoid(-logits)
    if gamma:
        positive, negative = positive * negative.exp() ** gamma, negative * positive.exp() ** gamma
    positive = positive if weights is None else positive * weights
    return -(smooth * positive + (1 - smooth) * negative).mean()


def positive_weights(prevalence: Tensor) -> Tensor:
    """Weights with which a class's positive images count as much as the others: (1 − p) / p; absent classes have 1.

    prevalence p: K, the share of the images that have the class.
    """
    return torch.where(prevalence > 0, (1 - prevalence) / prevalence.clamp(min=1e-12), 1.0).float()


def class_weights(counts: Tensor) -> Tensor:
    """Weights with which every class counts as much: N / (K · Nₖ), as scikit-learn's "balanced"; absent classes have 1.

    counts: K, images of each class.
    """
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 1.0).float()
