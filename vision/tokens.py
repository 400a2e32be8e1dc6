"""Encoders in tokens: patch features of any encoder, with tokens left out, replaced, or seen in order, where its class can.

timm's models are used as they are. A mask token goes in by a hook on the patch embedding, before positions are added; tokens
are left out by a module without parameters at timm's own place for it (`patch_drop`). Both are there during a call alone, so
that the state dict keeps timm's names. Where a class does neither, `abilities` says so before anything runs.
"""
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.image_size import Size, sides

POOLINGS = {"token": "token", "mean": "avg"}  # ours → timm's
NEEDS = {
    "tokens": "has patch tokens",
    "fill": "takes a mask token in the place of a patch",
    "keep": "takes some of an image's patches alone",
    "causal": "can see patches in their order",
    "layers": "gives the tokens of its blocks",
    "map": "gives a map of features",
}


@dataclass(frozen=True)
class Tokens:
    """What an encoder makes of B images, normalized as its pooled features are."""

    prefix: Tensor  # B,P,D: class token, then registers; P is 0 for convolutional encoders
    patches: Tensor  # B,N,D in raster order, or B,K,D in the order of `keep`
    grid: tuple[int, int]  # h,w of the whole image: N = h·w

    @property
    def map(self) -> Tensor:
        """B,D,h,w.  Raises ValueError where patches were left out."""
        h, w = self.grid
        if self.patches.shape[1] != h * w:
            raise ValueError(f"{self.patches.shape[1]} tokens of a {h}×{w} grid are no map")
        return self.patches.mT.unflatten(2, self.grid)


def abilities(encoder: nn.Module) -> frozenset[str]:
    """What `tokens` can do with an encoder's class: of "tokens", "fill", "keep", "causal", "layers" and "map" (`NEEDS`)."""
    if isinstance(encoder, (VisionTransformer, Eva)):  # DeiT, DINOv2 and v3, EVA-02, FlexiViT among them
        return frozenset(NEEDS)
    if isinstance(encoder, Hiera):
        return frozenset({"tokens", "keep", "map"})
    return frozenset({"map"} if hasattr(encoder, "forward_features") else ())


def check(encoder: nn.Module, what: str, *needed: str) -> None:
    """Raises ValueError where the encoder's class lacks an ability.  what: who needs it, such as method=mae."""
    for ability in needed:
        if ability not in abilities(encoder):
            raise ValueError(f"{what} needs an encoder that {NEEDS[ability]}, and {_name(encoder)} does not; use a vision "
                             "transformer, such as encoder=vit_small_patch16_224 (vit_tiny_patch4 for images of up to 64 px)")


@overload
def tokens(
    encoder: nn.Module, images: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None,
    fill: Tensor | None = None, causal: bool = False, layers: None = None,
) -> Tokens: ...
@overload
def tokens(
    encoder: nn.Module, images: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None,
    fill: Tensor | None = None, causal: bool = False, layers: Sequence[int],
) -> list[Tokens]: ...
def tokens(encoder, images, *, keep=None, mask=None, fill=None, causal=False, layers=None):
    """An encoder's tokens.  images: B,C,H,W normalized → `Tokens`, or with `layers` a list of them

    keep: B,K int64, the patches that the encoder sees; of Hiera its mask units, which are what is left at its end (32 px).
    mask, fill: B,N bool and D: where mask is True the patch's embedding is replaced by `fill`; its pixels have no influence.
    causal: a token sees itself and those before it. layers: blocks, from 0, whose outputs are wanted.

    Raises ValueError for what the encoder's class cannot do.
    """
    asked = {"keep": keep is not None, "fill": mask is not None, "causal": causal, "layers": layers is not None}
    check(encoder, "this call of tokens", *(ability for ability, wanted in asked.items() if wanted))
    if (mask is None) != (fill is None):
        raise ValueError("mask and fill belong together: where, and with what")
    if isinstance(encoder, Hiera):
        return _of_hiera(encoder, images, keep)
    if not isinstance(encoder, (VisionTransformer, Eva)):
        last = _last_map(encoder, images)
        patches = last.flatten(2).mT
        return Tokens(patches[:, :0], patches, (last.shape[2], last.shape[3]))
    size, extra = _grid(encoder, images.shape[2], images.shape[3]), {"is_causal": True} if causal else {}
    with _filled(encoder, mask, fill), _dropped(encoder, keep):
        if layers is None:
            return _split(encoder, encoder.forward_features(images, **extra), size)
        found = encoder.forward_intermediates(
            images, indices=list(layers), return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True,
            **extra,
        )
    pairs = [(x, x[:, :0]) if isinstance(x, Tensor) else x for x in found]
    return [Tokens(encoder.fc_norm(prefix), encoder.fc_norm(patches), size) for patches, prefix in pairs]


def pooled_and_map(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder's features, and its patches as a map, of one pass.  images: B,C,H,W normalized → B,D and B,d,h,w"""
    x = encoder.forward_features(images)
    if isinstance(encoder, (VisionTransformer, Eva)):
        found = _split(encoder, x, _grid(encoder, images.shape[2], images.shape[3])).map
    elif isinstance(encoder, Hiera):
        found = encoder.head.norm(x).mT.unflatten(2, tuple(encoder.mask_spatial_shape))
    else:
        found = _last_map(encoder, images, x)
    return encoder.forward_head(x), found


@torch.no_grad()
def grid(encoder: nn.Module, size: Size) -> tuple[int, int]:
    """h,w of the tokens that an encoder makes of images of this size. A convolutional one is run once."""
    if isinstance(encoder, (VisionTransformer, Eva)):
        return _grid(encoder, *sides(size))
    if isinstance(encoder, Hiera):
        return tuple(encoder.mask_spatial_shape)
    modes, like = {m: m.training for m in encoder.modules()}, next(encoder.parameters())
    try:
        encoder.eval()
        return tuple(_last_map(encoder, like.new_zeros(2, encoder.spec.channels, *sides(size))).shape[2:])
    finally:
        for module, mode in modes.items():
            module.training = mode


def pooling_of(encoder: nn.Module) -> str:
    """"mean" where the encoder was set to average its patch tokens (`pool_by`), else "token" or what its class does."""
    pooled = getattr(getattr(encoder, "spec", None), "arguments", {}).get("global_pool")
    return next((name for name, timms in POOLINGS.items() if timms == pooled), "as built")


def pool_by(encoder: nn.Module, pooling: str) -> bool:
    """Let an encoder's features be its class token ("token") or the mean of its patch tokens ("mean"). In place.

    The spec keeps it as timm's own arguments, so that the file, evaluation, export and plain timm all do the same. The norm
    stays where it is, and no weight gets another name. Convolutional encoders, and others that have no class token, stay as
    they are.  → whether anything changed.  Raises ValueError where the class token is asked for and there is none.
    """
    if not isinstance(encoder, (VisionTransformer, Eva)) or encoder.global_pool == POOLINGS[pooling]:
        return False
    if getattr(encoder, "attn_pool", None) is not None:
        raise ValueError(f"{_name(encoder)} pools by attention, and this method by {pooling}; use another encoder")
    if pooling == "token" and encoder.cls_token is None:
        raise ValueError(f"{_name(encoder)} has no class token, which this method's features are; use another encoder")
    encoder.global_pool = POOLINGS[pooling]
    norm = "use_fc_norm" if isinstance(encoder, Eva) else "fc_norm"
    stated = {"global_pool": POOLINGS[pooling], norm: not isinstance(encoder.fc_norm, nn.Identity)}
    encoder.spec = replace(encoder.spec, arguments=encoder.spec.arguments | stated)
    return True


def _name(encoder: nn.Module) -> str:
    return getattr(getattr(encoder, "spec", None), "name", type(encoder).__name__)


def _grid(encoder: nn.Module, height: int, width: int) -> tuple[int, int]:
    h, w = encoder.patch_embed.dynamic_feat_size((height, width))
    return int(h), int(w)


def _split(encoder: nn.Module, x: Tensor, size: tuple[int, int]) -> Tokens:
    x = encoder.fc_norm(x)  # the norm of classes that have it behind the pooling; else the identity
    return Tokens(x[:, : encoder.num_prefix_tokens], x[:, encoder.num_prefix_tokens :], size)


def _of_hiera(encoder: Hiera, images: Tensor, keep: Tensor | None) -> Tokens:
    size, mask = tuple(encoder.mask_spatial_shape), None
    if keep is not None:
        mask = torch.zeros(len(images), size[0] * size[1], dtype=torch.bool, device=images.device).scatter(1, keep, True)
    x = encoder.head.norm(encoder.forward_features(images, mask=mask))
    if keep is not None:  # timm leaves the kept units in raster order
        x = x.gather(1, keep.argsort(dim=1).argsort(dim=1)[:, :, None].expand(-1, -1, x.shape[2]))
    return Tokens(x[:, :0], x, size)


def _last_map(encoder: nn.Module, images: Tensor, x: Tensor | None = None) -> Tensor:
    """B,D,h,w.  x: what `forward_features` returned, where it is known"""
    x = encoder.forward_features(images) if x is None else x
    if x.ndim == 3:  # tokens of a class that timm alone takes apart
        return encoder.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]
    if x.ndim != 4:
        raise ValueError(f"{_name(encoder)} gives features of shape {tuple(x.shape[1:])}, which are no map")
    return x.permute(0, 3, 1, 2) if getattr(encoder, "output_fmt", "NCHW") == "NHWC" else x


@contextlib.contextmanager
def _filled(encoder: nn.Module, mask: Tensor | None, fill: Tensor | None) -> Iterator[None]:
    """Inside, the embeddings of masked patches are `fill`."""
    if mask is None or fill is None:
        yield
        return

    def replaced(_, __, embedded: Tensor) -> Tensor:
        places = mask.view(*embedded.shape[:-1], 1)  # B,N,D, or B,h,w,D where sizes may change
        return torch.where(places, fill.to(embedded.dtype).flatten(), embedded)

    handle = encoder.patch_embed.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


class _Kept(nn.Module):
    """At timm's place for patch dropout: the prefix and the kept patches.  B,P+N,D → B,P+K,D; Eva wants `keep` too"""

    def __init__(self, keep: Tensor, prefix: int, with_places: bool):
        super().__init__()
        self.keep, self.prefix, self.with_places = keep, prefix, with_places

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        places = self.keep[:, :, None].expand(-1, -1, x.shape[2])
        x = torch.cat([x[:, : self.prefix], x[:, self.prefix :].gather(1, places)], dim=1)
        return (x, self.keep) if self.with_places else x


@contextlib.contextmanager
def _dropped(encoder: nn.Module, keep: Tensor | None) -> Iterator[None]:
    """Inside, blocks see the kept patches alone."""
    if keep is None:
        yield
        return
    before = encoder.patch_drop
    encoder.patch_drop = _Kept(keep, encoder.num_prefix_tokens, isinstance(encoder, Eva))
    try:
        yield
    finally:
        encoder.patch_drop = before
