"""Rotary positions, stretched: DINOv3's augmentation of coordinates (Siméoni et al. 2025, arXiv 2508.10104)."""
import contextlib
from collections.abc import Iterator

from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import nn


def has_rope(encoder: nn.Module) -> bool:
    """Are an encoder's positions those of DINOv3, rotations by coordinates from −1 to 1?"""
    return isinstance(getattr(encoder, "rope", None), RotaryEmbeddingDinoV3)


@contextlib.contextmanager
def stretched(encoder: nn.Module, factor: float) -> Iterator[None]:
    """Inside, the coordinates of all patches are `factor` times as large. An encoder without `has_rope` stays as it is."""
    if not has_rope(encoder):
        yield
        return
    rope = encoder.rope
    periods, get_embed = rope.periods, rope.get_embed
    rope.periods = periods / factor  # angles are coordinates over periods

    def anew(shape=None, dtype=None):
        return get_embed(shape if shape is not None else rope.feat_shape, dtype)  # not the kept ones

    rope.get_embed = anew
    try:
        yield
    finally:
        del rope.get_embed
        rope.periods = periods
