"""DCL: Yeh, Hong, Hsu, Liu, Chen, LeCun, "Decoupled contrastive learning", ECCV 2022, arXiv 2110.06848.

SimCLR's network; the positive pair is left out of the denominator, which decouples the loss from the batch's size.
With `sigma` the positive term is weighted by a von Mises–Fisher density (DCLW, eq. 7).
"""
import torch
from torch import Tensor, nn

from core.method import at_least_fp32
from core.numerics import unit
from ssl.losses import global_rows, log_sum_exp
from ssl.method import check_images
from ssl.method.simclr import SimCLR


def dcl_loss(first: Tensor, second: Tensor, temperature: float, sigma: float | None = None) -> Tensor:
    """mean_i [ −w_i · z_i·z_p(i)/T + log Σ_{j ∉ {i, p(i)}} exp(z_i·z_j/T) ] over both views (eq. 6), global batch.

    w_i = 2 − exp(z_i·z_p(i)/σ) / mean_i exp(z_i·z_p(i)/σ), eq. 7, weights without gradient; 1 without σ.
    first, second: B,D embeddings of two views of the same images, any length; they are normalised here. Raises ValueError for
    one image, which leaves no negative.
    """
    B = len(first)
    check_images("dcl", B, 2, "an image's negatives are the other images")
    with torch.autocast(first.device.type, enabled=False):
        z = unit(at_least_fp32(torch.cat([first, second])), dim=1)
        keys, own = global_rows(z)
        negatives = log_sum_exp(z, keys, temperature, torch.stack([own, own.roll(B)], dim=1))
        similarity = (z[:B] * z[B:]).sum(1)
        weight = 1.0
        if sigma is not None:
            # softmax takes the largest out first: no exponential of a small σ vanishes in all images at once
            everyone, mine = global_rows(similarity.detach())
            weight = 2 - (len(everyone) * ((everyone - everyone.max()) / sigma).softmax(0))[mine]
        return negatives.mean() - (weight * similarity).mean() / temperature


class DCL(SimCLR):
    def __init__(self, encoder: nn.Module, hidden: int, dim: int, temperature: float, sigma: float | None):
        super().__init__(encoder, hidden, dim, temperature)
        if sigma is not None and not (isinstance(sigma, (int, float)) and sigma > 0):
            raise ValueError(f"method.sigma={sigma}: must be more than 0, or null for unweighted DCL")
        self.sigma = sigma

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        return dcl_loss(first, second, self.temperature, self.sigma)
