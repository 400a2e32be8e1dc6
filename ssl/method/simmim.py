"""SimMIM: Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, "SimMIM: a simple framework for masked image modeling", CVPR 2022,
arXiv 2111.09886.

Squares of patches are replaced by a mask token; the encoder sees all tokens, and one linear layer predicts the pixels of
those masked. A term is an image's own.
"""
import math

import torch
from torch import Tensor, nn

from core.method import Batch, Method, Output, Traits, at_least_fp32
from ssl.collapse import prediction_scalars
from ssl.method import check_mask_ratio
from ssl.method.mae import Pixels
from vision import masks, tokens
from vision.patches import patches_of


def simmim_loss(predictions: Tensor, pixels: Tensor) -> Tensor:
    """Mean over masked pixels of |prediction − pixel| (eq. 1).  B,M,p·p·C both

    The authors' code adds 1e-5 to the number of masked pixels, which is never 0 here.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        return (at_least_fp32(predictions) - at_least_fp32(pixels)).abs().mean()


class SimMIM(Method):
    traits = Traits(
        views=1, per_image=True, local_crops=False, predicts_pixels=True, on_tokens=True, pooling="mean"
    )

    def __init__(self, encoder: nn.Module, mask_ratio: float, mask_cell: int):
        super().__init__()
        tokens.check(encoder, "method=simmim", "fill")
        if mask_cell < 1:
            raise ValueError(f"method.mask_cell={mask_cell}: patches a side of what is masked together, 1 or more")
        self.encoder = encoder
        self.grid = h, w = tokens.grid(encoder, encoder.spec.image_size)
        cells = h * w / mask_cell**2
        self.masked = min(h * w, math.ceil(mask_ratio * cells) * mask_cell**2)
        check_mask_ratio(mask_ratio, h * w, self.masked)
        self.mask_cell = mask_cell
        pixels = patches_of(torch.zeros(1, encoder.spec.channels, *encoder.spec.shape[1:]), self.grid).shape[2]
        self.mask_token = nn.Parameter(torch.zeros(encoder.num_features))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Linear(encoder.num_features, pixels)  # a 1×1 convolution and PixelShuffle in the authors' code

    def mask(self, batch: Batch) -> Tensor:
        """B,N bool: which patches are masked."""
        indices = batch.indices.to(batch.views[0].device)
        words = masks.words(batch.seed, batch.epoch, indices, 0, 2 * self.grid[0] * self.grid[1])
        return masks.cells(words, self.grid, self.mask_cell, self.masked)

    def embed(self, batch: Batch) -> Tensor:
        """→ predictions B,M,p·p·C"""
        mask = self.mask(batch)
        found = tokens.tokens(self.encoder, batch.views[0], mask=mask, fill=self.mask_token)
        return self.decoder(_at(found.patches, masks.places(mask, self.masked)))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Pixels:
        patches, places = patches_of(at_least_fp32(batch.views[0]), self.grid), masks.places(self.mask(batch), self.masked)
        return Pixels(_at(patches, places), places)

    def objective(self, features: Tensor, targets: Pixels, progress: float) -> Output:
        loss, N = simmim_loss(features, targets.patches), self.grid[0] * self.grid[1]
        return Output(loss, prediction_scalars(features, targets.patches, targets.places, N) if self.logs else {})


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """B,N,D and B,M int64 → B,M,D"""
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))
