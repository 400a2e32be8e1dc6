"""A small transformer that predicts patches from the tokens of others: MAE's decoder, I-JEPA's predictor."""
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vision.stems import sincos


class Decoder(nn.Module):
    """Self-attention over the tokens that were seen and a mask token for each patch to predict.

    Positions are fixed 2-D sines and cosines, so the order of tokens is of no account; those to predict come last and are all
    that is returned. The class token and registers stand nowhere.
    """

    def __init__(self, dim: int, width: int, depth: int, heads: int, out: int, grid: tuple[int, int]):
        """dim: of the tokens; width, depth, heads: its own; out: numbers a predicted patch; grid: h,w of an image."""
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"method.decoder_width={width}: must be a multiple of 4 and of method.decoder_heads={heads}")
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(dim, width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(width)
        self.head = nn.Linear(width, out)
        self.register_buffer("positions", sincos(grid, width), persistent=False)  # N,width

    def forward(self, prefix: Tensor, patches: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """prefix: B,P,D; patches: B,K,D, those at `seen` (B,K int64); wanted: B,M int64 → B,M,out"""
        positions = self.positions.to(patches.dtype)
        known = self.embed(patches) + positions[seen]
        asked = self.mask.to(known.dtype) + positions[wanted]
        x = self.norm(self.blocks(torch.cat([self.embed(prefix), known, asked], dim=1)))
        return self.head(x[:, -wanted.shape[1] :])


@torch.no_grad()
def init_xavier(module: nn.Module) -> None:
    """Xavier's uniform weights and zero biases for linear layers; a patch embedding counts as one (MAE's code). In place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    patches = getattr(getattr(module, "patch_embed", None), "proj", None)
    if isinstance(patches, nn.Conv2d):
        nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
