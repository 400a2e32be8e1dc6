"""MAE: He, Chen, Xie, Li, Dollár, Girshick, "Masked autoencoders are scalable vision learners", CVPR 2022, arXiv 2111.06377.

Most patches of an image are left out; the encoder sees the others alone, so that a step costs a fraction of a whole pass. A
small decoder predicts the pixels of those left out, each patch normalized by its own mean and deviation. A term is an image's
own: there are no pairs, no negatives, no teacher.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32
from ssl.collapse import prediction_scalars
from ssl.method import check_mask_ratio, check_patches
from vision import masks, tokens
from vision.decoder import Decoder, init_xavier
from vision.patches import patches_of
from vision.stems import fix_positions


@dataclass(frozen=True)
class Pixels(Record):
    """What is to be predicted."""

    patches: Tensor  # B,M,p·p·C
    places: Tensor  # B,M int64: where in the image


def mae_loss(predictions: Tensor, patches: Tensor) -> Tensor:
    """Mean over the masked patches of their mean squared error (§3; visible patches count nothing).  B,M,P both"""
    with torch.autocast(predictions.device.type, enabled=False):
        return (at_least_fp32(predictions) - at_least_fp32(patches)).square().mean()


def normalized(patches: Tensor) -> Tensor:
    """Each patch less its mean, over its deviation: the variance without bias, plus 1e-6 (§4.1 and the authors' code)."""
    return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()


class MAE(Method):
    traits = Traits(
        views=1, per_image=True, local_crops=False, predicts_pixels=True, on_tokens=True, pooling="mean"
    )

    def __init__(
        self,
        encoder: nn.Module,
        mask_ratio: float,
        norm_pixels: bool,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
    ):
        super().__init__()
        tokens.check(encoder, "method=mae", "keep")
        self.encoder = encoder
        self.grid = tokens.grid(encoder, encoder.spec.image_size)
        N = self.grid[0] * self.grid[1]
        self.kept = int(N * (1 - mask_ratio))
        check_mask_ratio(mask_ratio, N, N - self.kept)
        pixels = patches_of(torch.zeros(1, encoder.spec.channels, *encoder.spec.shape[1:]), self.grid).shape[2]
        check_patches(norm_pixels, pixels)
        self.norm_pixels = norm_pixels
        self.decoder = Decoder(encoder.num_features, decoder_width, decoder_depth, decoder_heads, pixels, self.grid)
        init_xavier(self.decoder)
        nn.init.normal_(self.decoder.mask, std=0.02)
        if not getattr(encoder, "trained", False):
            init_xavier(encoder)
            fix_positions(encoder)

    def places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each image's patches: those that the encoder sees and those that it does not.  → B,K and B,M int64"""
        N, indices = self.grid[0] * self.grid[1], batch.indices.to(batch.views[0].device)
        mask = masks.random(masks.words(batch.seed, batch.epoch, indices, 0, N), N - self.kept)
        return masks.places(~mask, self.kept), masks.places(mask, N - self.kept)

    def embed(self, batch: Batch) -> Tensor:
        """→ predictions B,M,p·p·C"""
        seen, wanted = self.places(batch)
        found = tokens.tokens(self.encoder, batch.views[0], keep=seen)
        return self.decoder(found.prefix, found.patches, seen, wanted)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Pixels:
        _, wanted = self.places(batch)
        patches = patches_of(at_least_fp32(batch.views[0]), self.grid)
        patches = patches.gather(1, wanted[:, :, None].expand(-1, -1, patches.shape[2]))
        return Pixels(normalized(patches) if self.norm_pixels else patches, wanted)

    def objective(self, features: Tensor, targets: Pixels, progress: float) -> Output:
        loss, N = mae_loss(features, targets.patches), self.grid[0] * self.grid[1]
        return Output(loss, prediction_scalars(features, targets.patches, targets.places, N) if self.logs else {})
