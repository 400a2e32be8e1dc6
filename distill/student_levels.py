"""A student in levels: its features and its map, and those of every block or stage before, for ladder heads."""
from dataclasses import dataclass

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from core.image_size import sides
from vision import tokens
from vision.heads import mlp

HEADS = ("linear", "ladder")


@dataclass(frozen=True)
class Level:
    """Of one block or stage."""

    features: Tensor  # B,D: class token, or mean of the map; of the last level the encoder's features
    map: Tensor  # B,E,h,w


def levels_of(encoder: nn.Module, images: Tensor, heads: str) -> list[Level]:
    """The last level alone ("linear"), or all of them, last one last.  B,C,H,W → levels"""
    if heads == "linear":
        return [Level(*tokens.pooled_and_map(encoder, images))]
    transformer = isinstance(encoder, (VisionTransformer, Eva))
    extra = {"return_prefix_tokens": True, "norm": True} if transformer and encoder.num_prefix_tokens else {"norm": transformer}
    out, found = encoder.forward_intermediates(images, output_fmt="NCHW", **extra)
    pairs = [x if isinstance(x, tuple) else (x, None) for x in found]
    levels = [Level(x.mean((2, 3)) if prefix is None else prefix[:, 0], x) for x, prefix in pairs]
    last = levels[-1].map if transformer else out
    if getattr(encoder, "output_fmt", "NCHW") == "NHWC":
        last = last.permute(0, 3, 1, 2)
    return [*levels[:-1], Level(encoder.forward_head(out), last)]


@torch.no_grad()
def level_widths(encoder: nn.Module, heads: str) -> list[tuple[int, int]]:
    """Widths of every level's features and map.  Raises ValueError where the encoder has none to give."""
    modes, like = {m: m.training for m in encoder.modules()}, next(encoder.parameters())
    images = like.new_zeros(2, encoder.spec.channels, *sides(encoder.spec.image_size))
    try:
        found = levels_of(encoder.eval(), images, heads)
        return [(level.features.shape[1], level.map.shape[1]) for level in found]
    except Exception as error:  # timm's models fail in many ways
        why = " ".join(str(error).split())[:160]
        way = "use method.heads=linear" if heads == "ladder" else "take a convolutional network or a vision transformer"
        raise ValueError(f"student={encoder.spec.name} gives no map with method.heads={heads} ({why}); {way}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


class Head(nn.Module):
    """From a student's levels to a teacher's features B,D and a map B,E,h,w on the teacher's grid; levels add up.

    linear: one linear layer each. ladder: on each level a hidden layer and GELU (UNIC, arXiv 2408.05088, §3.2: `hidden` wide,
    four times that on the last level). Maps smaller than the grid are projected and then enlarged (bilinear); larger ones are
    averaged first.
    """

    def __init__(self, widths: list[tuple[int, int]], dim: int, width: int, heads: str, hidden: int):
        super().__init__()
        wide = [hidden if heads == "ladder" else 0] * len(widths)
        wide[-1] *= 4
        self.features = nn.ModuleList([_perceptron(a, h, dim) for (a, _), h in zip(widths, wide, strict=True)])
        self.maps = nn.ModuleList([_perceptron(b, h, width) for (_, b), h in zip(widths, wide, strict=True)])

    def forward(self, levels: list[Level], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        features = [layer(level.features) for layer, level in zip(self.features, levels, strict=True)]
        maps = [self._on_grid(layer, level.map, grid) for layer, level in zip(self.maps, levels, strict=True)]
        return torch.stack(features).sum(0), torch.stack(maps).sum(0)

    @staticmethod
    def _on_grid(layer: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        least = min(x.shape[2], grid[0]), min(x.shape[3], grid[1])
        x = F.adaptive_avg_pool2d(x, least) if x.shape[2:] != least else x
        x = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x if least == grid else F.interpolate(x, grid, mode="bilinear", align_corners=False)


def _perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear layers with weights N(0, .02²), cut at two deviations, and no bias to begin with."""
    made = mlp([width, hidden, out] if hidden else [width, out], hidden_norm=False, activation=nn.GELU)
    for layer in made:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(layer.bias)
    return made
