"""Augmentation of images with any number of channels: gain and offset of each, gamma, noise, and dropped channels.

These take no color for granted: they suit microscopy, radiographs, infrared and satellite bands as well as photographs.
"""
import math

import torch
from torch import Tensor

from core import counter_rng
from vision.pixels import per_image

MOST_CHANNELS = 32
AT_ONCE = 1 << 22  # blocks of random numbers whose 64-bit words are in memory together
COLOR = (1, 3)  # numbers of channels that color operations know: gray and RGB


def scale_bands(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """clamp(gain · x + offset), each channel its own.  x: B,C,S,S in [0, 1]; gain, offset: B,C or more → the same"""
    C = x.shape[1]
    return torch.addcmul(offset[:, :C, None, None], x, gain[:, :C, None, None]).clamp_(0, 1)


def adjust_gamma(x: Tensor, gamma: Tensor) -> Tensor:
    """x to the power of gamma.  x: B,C,S,S in [0, 1]; gamma: B,1"""
    return x.pow(per_image(gamma[:, 0]))


def add_noise(x: Tensor, deviation: Tensor, key: Tensor) -> Tensor:
    """Gaussian noise, clamped to [0, 1].  x: B,C,S,S; deviation: B,1; key: B,2 → the same

    A pixel's number depends on its image's key and on its place alone, counted along channels, rows, columns.
    """
    values = x[0].numel() if len(x) else 0
    parts = []
    for rows in torch.arange(len(x), device=x.device).split(max(1, AT_ONCE // max(1, values // 4))):
        normal = standard_normal(key[rows], values).view_as(x[rows])
        parts.append(torch.addcmul(x[rows], normal, per_image(deviation[rows, 0])).clamp_(0, 1))
    return torch.cat(parts) if parts else x


def standard_normal(key: Tensor, count: int) -> Tensor:
    """Normal numbers by Box and Muller's transform of Philox's words: four of a block make four.  key: B,2 → B,count float32"""
    blocks = torch.arange((count + 3) // 4, device=key.device)[None]
    zero = torch.zeros_like(blocks)
    words = counter_rng.philox((blocks, zero, zero, zero), (key[:, :1], key[:, 1:]))
    first, second, third, fourth = (((w >> 8) + 0.5).to(torch.float32) * 2.0**-24 for w in words)
    pairs = []
    for length, turn in ((first, second), (third, fourth)):
        radius, angle = torch.sqrt(-2 * torch.log(length)), 2 * math.pi * turn
        pairs += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(pairs, dim=-1).flatten(1)[:, :count]


def kept_channels(margin: Tensor, channels: int) -> Tensor:
    """Which channels stay.  margin: B,32, as `ExtendedParams.drop_margin` → B,channels bool, one of them true at least"""
    margin = margin[:, :channels]
    best = torch.nn.functional.one_hot(margin.argmax(1), channels).bool()
    return (margin >= 0) | best


def refuse_color(channels: int, settings: dict[str, float | str]) -> None:
    """Raises ValueError where images of so many channels have no color that an operation could change.

    settings: name → value, of the color operations that a view has.
    """
    if channels in COLOR or not settings:
        return
    name, value = next(iter(settings.items()))
    off = ", ".join(f"augment.{other}={'none' if other == 'policy' else 0}" for other in settings)
    raise ValueError(
        f"augment.{name}={value}: acts on gray or color images, of 1 or 3 channels; these have {channels}: set {off}, "
        "or take augment=bands"
    )
