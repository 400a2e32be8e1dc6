"""I-JEPA: Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas, "Self-supervised learning from images with a
joint-embedding predictive architecture", CVPR 2023, arXiv 2301.08243.

The encoder sees some patches, the context; from its tokens a small transformer predicts what a moving average of the encoder
makes of other blocks of the image, having seen all of it. No pixels are predicted and no views are compared.

Targets have the same size for all images of a step, as in the paper, and contexts the same number of patches (vision/masks.py).
"""
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, ema_copy, ema_update_
from ssl.collapse import prediction_scalars
from ssl.method import check_constants
from vision import masks, tokens
from vision.decoder import Decoder
from vision.stems import fix_positions


@dataclass(frozen=True)
class TeacherTokens(Record):
    """The teacher's tokens at the target blocks."""

    tokens: Tensor  # B,T,M,D
    places: Tensor  # B,T,M int64: where in the image


def ijepa_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 with β 1, the mean over all numbers, as in the authors' code; the paper's §3 has squared L2.

    predictions: B,T,M,D; targets: B,T,M,D as the teacher's last norm leaves them, normalized once more without weights.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        targets = F.layer_norm(at_least_fp32(targets), targets.shape[-1:])
        return F.smooth_l1_loss(at_least_fp32(predictions), targets)


class IJEPA(Method):
    traits = Traits(views=1, per_image=True, local_crops=False, on_tokens=True, pooling="mean")

    def __init__(
        self,
        encoder: nn.Module,
        targets: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        momentum: tuple[float, float],
    ):
        super().__init__()
        tokens.check(encoder, "method=ijepa", "keep", "tokens")
        check_constants(momentum=momentum)
        self.encoder, self.blocks, self.momentum = encoder, targets, tuple(momentum)
        self.grid = h, w = tokens.grid(encoder, encoder.spec.image_size)
        if targets < 1 or h * w - targets * masks.largest_block(h * w) < 1:
            raise ValueError(f"method.targets={targets}: that many blocks may cover all of {h}×{w} patches; use an encoder of "
                             "smaller patches, such as vit_tiny_patch4, larger images, or fewer targets")
        dim = encoder.num_features
        self.decoder = Decoder(dim, decoder_width, decoder_depth, decoder_heads, dim, self.grid)
        _init(self.decoder)
        nn.init.trunc_normal_(self.decoder.mask, std=0.02)
        if not getattr(encoder, "trained", False):
            fix_positions(encoder)
            _init(encoder)
        self.teacher = ema_copy(encoder).eval()

    def train(self, mode: bool = True) -> "IJEPA":
        super().train(mode)
        self.teacher.eval()  # no drop path in targets
        return self

    def masks(self, batch: Batch) -> masks.Blocks:
        """Context and targets of each image of the batch."""
        N, indices = self.grid[0] * self.grid[1], batch.indices.to(batch.views[0].device)
        words = masks.words(batch.seed, batch.epoch, indices, 0, 2 * (self.blocks + 1) + N)
        return masks.multiblock(words, self.grid, masks.block_sizes(batch.seed, batch.step, self.grid), self.blocks)

    def embed(self, batch: Batch) -> Tensor:
        """→ predictions B,T,M,D"""
        found, T = self.masks(batch), self.blocks
        seen = tokens.tokens(self.encoder, batch.views[0], keep=found.context).patches
        patches, places = seen.repeat_interleave(T, 0), found.context.repeat_interleave(T, 0)
        return self.decoder(patches[:, :0], patches, places, found.targets.flatten(0, 1)).unflatten(0, (-1, T))

    @torch.no_grad()
    def targets(self, batch: Batch) -> TeacherTokens:
        places = self.masks(batch).targets
        whole = tokens.tokens(self.teacher, batch.views[0]).patches
        at = places.flatten(1)[:, :, None].expand(-1, -1, whole.shape[2])
        return TeacherTokens(whole.gather(1, at).unflatten(1, places.shape[1:]), places)

    def objective(self, features: Tensor, targets: TeacherTokens, progress: float) -> Output:
        scalars = {"momentum": self.momentum_at(progress)}
        if self.logs:
            wanted = F.layer_norm(at_least_fp32(targets.tokens), targets.tokens.shape[-1:])
            scalars |= prediction_scalars(features, wanted, targets.places, self.grid[0] * self.grid[1])
        return Output(ijepa_loss(features, targets.tokens), scalars)

    def momentum_at(self, progress: float) -> float:
        """Of the teacher: a straight line."""
        start, end = self.momentum
        return start + progress * (end - start)

    def after_step(self, staged: None, progress: float) -> None:
        ema_update_(self.teacher, self.encoder, self.momentum_at(progress))


@torch.no_grad()
def _init(module: nn.Module) -> None:
    """Small normal weights, the last layers of block i (from 1) over √(2i), as in the authors' code. In place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for i, block in enumerate(module.blocks, 1):
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.div_(math.sqrt(2 * i))
