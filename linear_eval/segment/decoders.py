"""Maps of an encoder → scores of each class at each pixel: a linear layer, a feature pyramid, a U-Net's decoder.

The last two have group normalization (Wu and He 2018, arXiv 1803.08494), so that small batches do as well.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision.tokens import abilities, tokens

DECODERS = ("linear", "fpn", "unet")
LEVELS = 4  # maps of an encoder that a pyramid has, at most
SCALES = (4.0, 2.0, 1.0, 0.5)  # of a transformer's maps, which all have one size: those of ViTDet (arXiv 2203.16527)
POOLS = (1, 2, 3, 6)  # cells a side of the pooled context (PSPNet, arXiv 1612.01105)
GROUPS = 8


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear.  B,C,h,w → B,C,*size"""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def pyramid(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """Up to LEVELS maps of an encoder, B,D,h,w each, the finest first.

    A convolutional encoder's last ones; of a transformer blocks spread evenly over its depth, resized to SCALES.
    Raises ValueError for an encoder that gives one map alone.
    """
    if not hasattr(encoder, "forward_intermediates"):
        raise ValueError(f"{type(encoder).__name__} gives no maps of several depths; take --method linear")
    blocks = len(encoder.feature_info)
    count = min(LEVELS, blocks)
    if "layers" in abilities(encoder):
        found = tokens(encoder, images, layers=[(i + 1) * blocks // count - 1 for i in range(count)])
        return [resized(one.map, [max(1, round(side * scale)) for side in one.grid])
                for one, scale in zip(found, SCALES[LEVELS - count :], strict=True)]
    return list(encoder.forward_intermediates(images, indices=count, output_fmt="NCHW", norm=True, intermediates_only=True))


def last_map(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """The map of patch features, as all tools take it, B,D,h,w."""
    return [tokens(encoder, images).map]


class Linear(nn.Module):
    """BatchNorm and a linear layer at each patch, as DINOv2 is evaluated (arXiv 2304.07193, §7.4)."""

    def __init__(self, dims: Sequence[int], width: int, classes: int):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(dims[-1]), nn.Conv2d(dims[-1], classes, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: list[Tensor], images: Tensor) -> Tensor:
        return self.head(self.norm(maps[-1]))


class Fpn(nn.Module):
    """Top-down pyramid (Lin et al. 2017, arXiv 1612.03144) with pooled context on the coarsest map; all levels are fused at
    the finest one's size, as UperNet does."""

    def __init__(self, dims: Sequence[int], width: int, classes: int):
        super().__init__()
        self.context = nn.ModuleList(nn.Conv2d(dims[-1], width // len(POOLS), 1) for _ in POOLS)
        coarsest = dims[-1] + width // len(POOLS) * len(POOLS)
        self.lateral = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in (*dims[:-1], coarsest))
        self.smooth = nn.ModuleList(block(width, width) for _ in dims)
        self.fuse, self.head = block(width * len(dims), width), nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor], images: Tensor) -> Tensor:
        top = maps[-1]
        pooled = [resized(layer(F.adaptive_avg_pool2d(top, side)), top.shape[2:])
                  for side, layer in zip(POOLS, self.context, strict=True)]
        sources, levels, above = [*maps[:-1], torch.cat([top, *pooled], 1)], [], None
        for source, lateral, smooth in zip(sources[::-1], self.lateral[::-1], self.smooth[::-1], strict=True):
            x = lateral(source)
            above = x if above is None else x + resized(above, x.shape[2:])
            levels.append(smooth(above))
        size = levels[-1].shape[2:]
        return self.head(self.fuse(torch.cat([resized(level, size) for level in levels], 1)))


class Unet(nn.Module):
    """Upsampled step by step, with the encoder's map of each size beside it, and the image itself at the last."""

    def __init__(self, dims: Sequence[int], width: int, classes: int, channels: int = 3):
        super().__init__()
        inputs = [dims[-1], *[width] * (len(dims) - 2)]
        self.up = nn.ModuleList(block(below + skip, width) for below, skip in zip(inputs, dims[-2::-1], strict=True))
        self.pixels = block(channels, width // 2)
        self.last = block((width if len(dims) > 1 else dims[0]) + width // 2, width // 2)
        self.head = nn.Conv2d(width // 2, classes, 1)

    def forward(self, maps: list[Tensor], images: Tensor) -> Tensor:
        x = maps[-1]
        for skip, layer in zip(maps[-2::-1], self.up, strict=True):
            x = layer(torch.cat([resized(x, skip.shape[2:]), skip], 1))
        return self.head(self.last(torch.cat([resized(x, images.shape[2:]), self.pixels(images)], 1)))


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU())


def build(name: str, dims: Sequence[int], width: int, classes: int, channels: int) -> nn.Module:
    """A decoder of maps of so many channels, the finest first.  name: of DECODERS"""
    if name == "unet":
        return Unet(dims, width, classes, channels)
    return {"linear": Linear, "fpn": Fpn}[name](dims, width, classes)
