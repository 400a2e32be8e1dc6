"""vision/kernels.py with the operations that are off by default, and for images of any number of channels up to 32.

Compiled by itself, on first use: what the operations of old compute keeps its bytes, and their start its speed.
"""
import math
from collections import namedtuple

import numpy as np
import torch
from numba import types
from torch import Tensor

from core.image_size import Size
from vision.bands import MOST_CHANNELS, kept_channels
from vision.compiling import compiled, contracted, inner
from vision.kernel_policy import apply, orient, rotation, warp
from vision.kernels import allocate, arrays_of, blend, blur, grayscale, in_threads, jitter, solarize
from vision.pixels import BRIGHTNESS, CONTRAST
from vision.resample import HALF, ONE, ZERO, clamp, f32, load, resize, triangles
from vision.view_params import ExtendedParams, ViewParams, extend

LOW = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)
FIRST, SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # Philox's multipliers
ADDED, ADDED_TOO = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # to its keys
EIGHT = np.uint64(8)
UNIT, WHOLE_TURN = f32(2.0**-24), f32(2 * math.pi)
MINUS_TWO = f32(-2)

# --------------------------------------------------------------------------------------------------------------- levels


@contracted
def jitter_bands(planes, order, factors):
    """`kernels.jitter` of images without color: brightness and contrast, the latter about the mean of all channels."""
    C, pixels = planes.shape
    for step in range(4):
        operation = order[step]
        factor = factors[operation]
        if operation == BRIGHTNESS:
            for c in range(C):
                blend(planes[c], factor, ZERO)
        elif operation == CONTRAST:
            total = 0.0
            for c in range(C):
                for p in range(pixels):
                    total += planes[c, p]
            level = f32(total / (C * pixels))
            for c in range(C):
                blend(planes[c], factor, level * (ONE - factor))


@contracted
def scale_band(x, gain, offset):
    for p in range(len(x)):
        x[p] = clamp(x[p] * gain + offset)


@inner
def adjust_gamma(x, gamma):
    for p in range(len(x)):
        x[p] = x[p] ** gamma


@inner
def philox(block, key0, key1):
    """`counter_rng.philox` of the counter (block, 0, 0, 0)."""
    c0, c1, c2, c3 = np.uint64(block), np.uint64(0), np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(key0), np.uint64(key1)
    for _ in range(10):
        p0, p1 = c0 * FIRST, c2 * SECOND
        c0, c1, c2, c3 = (p1 >> HALF_WORD) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF_WORD) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + ADDED) & LOW, (k1 + ADDED_TOO) & LOW
    return c0, c1, c2, c3


@inner
def unit(word):
    return (f32(word >> EIGHT) + HALF) * UNIT


@inner
def two_normal(length, turn):
    radius, angle = f32(math.sqrt(MINUS_TWO * f32(math.log(unit(length))))), WHOLE_TURN * unit(turn)
    return radius * f32(math.cos(angle)), radius * f32(math.sin(angle))


@inner
def add_noise(values, deviation, key):
    """`bands.add_noise` to one image.  values: C*R*S"""
    for block in range((len(values) + 3) // 4):
        w0, w1, w2, w3 = philox(block, key[0], key[1])
        n0, n1 = two_normal(w0, w1)
        n2, n3 = two_normal(w2, w3)
        for k, normal in enumerate((n0, n1, n2, n3)):
            p = 4 * block + k
            if p < len(values):
                values[p] = clamp(values[p] + normal * deviation)


# ---------------------------------------------------------------------------------------------------------------- chain

ExtendedArrays = namedtuple(
    "ExtendedArrays",
    "box flip jitter order factors grey blur sigma solarize "
    "vflip turns angle ops magnitudes gain offset gamma noise noise_key kept",
)  # `ExtendedParams`, contiguous; kept: B,C, which channels stay

_floats, _flags, _integers = types.float32[::1], types.boolean[::1], types.int64[:, ::1]
_rows, _masks = types.float32[:, ::1], types.boolean[:, ::1]
_images = types.Array(types.uint8, 4, "C", readonly=True)
_params = types.NamedTuple(
    (_integers, _flags, _flags, _integers, _rows, _flags, _flags, _floats, _flags, _flags, types.int64[::1], _rows, _integers,
     _rows, _rows, _rows, _rows, _rows, _integers, _masks), ExtendedArrays
)  # fmt: skip


@contracted
def store(planes, kept, gain, shift, out):
    """Normalize.  planes: C,R*S → out: R*S*C"""
    C = len(planes)
    for c in range(C):
        plane, weight, base = planes[c], gain[c], shift[c]
        if not kept[c]:
            weight, base = ZERO, ZERO
        for p in range(len(plane)):
            out[p * C + c] = plane[p] * weight + base


@compiled(types.void(_images, types.boolean, _params, _floats, _floats, types.float32[:, :, :, ::1], types.int64, types.int64))
def render_extended(images, cropped, params, gain, shift, out, start, step):
    """As `kernels.render_images`."""
    B, C, H, W = images.shape
    R, S = out.shape[1], out.shape[2]
    shorter = min(R, S)
    radius = min(max(1, shorter // 20), shorter - 1)
    scratch = allocate(C, (H, W), R, S, radius)
    planes = scratch.planes
    for i in range(start, B, step):
        if cropped:
            load(images[i], params.flip[i], planes)
        else:
            top, left, height, width = params.box[i, 0], params.box[i, 1], params.box[i, 2], params.box[i, 3]
            triangles(height, R, False, *scratch.rows)
            triangles(width, S, params.flip[i], *scratch.columns)
            resize(images[i], top, left, scratch.rows, scratch.columns, planes, scratch.middle, scratch.turned)
        orient(planes, R, params.vflip[i], params.turns[i], scratch.middle)
        if params.angle.shape[1]:
            warp(planes, R, rotation(params.angle[i, 0]), scratch.middle)
        if params.ops.shape[1]:
            apply(planes, R, params.ops[i], params.magnitudes[i], scratch.middle)
        if params.jitter[i]:
            if C in (1, 3):
                jitter(planes, params.order[i], params.factors[i])
            else:
                jitter_bands(planes, params.order[i], params.factors[i])
        if params.grey[i] and C == 3:
            grayscale(planes[0], planes[1], planes[2])
            for c in (1, 2):
                for p in range(R * S):
                    planes[c, p] = planes[0, p]
        for c in range(C):
            if params.blur[i]:
                blur(planes[c], R, radius, params.sigma[i], scratch.padded, scratch.middle, scratch.turned)
            if params.solarize[i]:
                solarize(planes[c])
            if params.gain.shape[1]:
                scale_band(planes[c], params.gain[i, c], params.offset[i, c])
            if params.gamma.shape[1]:
                adjust_gamma(planes[c], params.gamma[i, 0])
        if params.noise.shape[1]:
            add_noise(planes.reshape(C * R * S), params.noise[i, 0], params.noise_key[i])
        store(planes, params.kept[i], gain, shift, out[i].reshape(R * S * C))


def render(images: Tensor, params: ViewParams, size: Size, mean: Tensor, std: Tensor, cropped: bool) -> Tensor:
    """`augment.render` on a CPU.  images: B,C,H,W uint8 → B,C,h,w float32, channels-last."""
    B, C = images.shape[:2]
    if not 1 <= C <= MOST_CHANNELS:
        raise ValueError(f"images of {C} channels: augmentation takes 1 to {MOST_CHANNELS}")
    given = params if isinstance(params, ExtendedParams) else extend(params)
    margin = given.drop_margin
    kept = kept_channels(margin, C) if margin.shape[1] else torch.ones(B, C, dtype=torch.bool)
    arrays = ExtendedArrays(*arrays_of(ExtendedArrays._fields[:-1], given), np.ascontiguousarray(kept.numpy()))
    return in_threads(render_extended, images, (cropped, arrays), size, (mean, std))
