"""The views of vision/augment.py on a CPU, compiled: each image goes through its whole chain while it is in cache.

Operations that an image's parameters leave out cost nothing, and neighboring operations run block by block. The results
are those of vision/pixels.py to float32 rounding, and to the bit the same in any batch and at any number of threads,
because no image shares a sum with another one.

The first import compiles, for some seconds; the code is then kept in __pycache__ until a source file that it depends on
changes (vision/compiling.py). Threads are started by each call and end with it: so they neither compete with torch's own
nor keep a process from forking.
"""
import math
import threading
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import torch
from numba import types
from torch import Tensor

from core.image_size import Size, sides
from vision.compiling import compiled, contracted, inner, summing
from vision.pixels import BRIGHTNESS, CONTRAST, HUE, SATURATION, SOLARIZE_AT
from vision.preprocess import LUMA
from vision.resample import HALF, ONE, ZERO, clamp, f32, load, resize, triangles
from vision.view_params import ViewParams

BLOCK = 1024  # pixels that go through several operations together: three planes of floats take 12 KiB of first-level cache
RED, GREEN, BLUE = map(f32, LUMA)
TWO, THREE, SIX = map(f32, (2, 3, 6))
BRIGHT, TINY, SIXTH = map(f32, (SOLARIZE_AT, 1e-12, 1 / 6))

# --------------------------------------------------------------------------------------------------------- per pixel


@contracted
def luma(r, g, b):
    return RED * r + GREEN * g + BLUE * b


@contracted
def blend(x, factor, base):
    """Brightness (base 0) and contrast (base: the mean gray level times 1 − factor)."""
    for p in range(len(x)):
        x[p] = clamp(x[p] * factor + base)


@contracted
def saturate(r, g, b, factor):
    rest = ONE - factor
    for p in range(len(r)):
        gray = luma(r[p], g[p], b[p]) * rest
        r[p], g[p], b[p] = clamp(r[p] * factor + gray), clamp(g[p] * factor + gray), clamp(b[p] * factor + gray)


@contracted
def ramp(hue, high, chroma):
    """One channel of HSV → RGB; hue in sixths of a turn, relative to where the channel is lowest."""
    distance = abs(hue - SIX * np.rint(hue * SIXTH))
    distance = distance if distance > ONE else ONE
    distance = distance if distance < TWO else TWO
    return high + chroma * (distance - TWO)


@contracted
def turn_hue(r, g, b, turns):
    """`pixels.turn_hue`, in sixths of a turn."""
    for p in range(len(r)):
        red, green, blue = r[p], g[p], b[p]
        high = red if red > green else green
        high = high if high > blue else blue
        low = red if red < green else green
        low = low if low < blue else blue
        chroma = high - low
        is_red, is_green = high == red, high == green
        difference = green - blue if is_red else (blue - red if is_green else red - green)
        sector = ZERO if is_red else (TWO if is_green else TWO + TWO)
        hue = difference / (chroma if chroma > TINY else TINY) + sector + SIX * turns
        r[p], g[p], b[p] = ramp(hue + THREE, high, chroma), ramp(hue + ONE, high, chroma), ramp(hue - ONE, high, chroma)


@summing
def gray_sum(planes, start, stop):
    total = ZERO
    if len(planes) == 1:
        x = planes[0, start:stop]
        for p in range(len(x)):
            total += x[p]
    else:
        r, g, b = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
        for p in range(len(r)):
            total += luma(r[p], g[p], b[p])
    return total


@inner
def jitter(planes, order, factors):
    """Two sweeps: up to contrast, which needs the mean gray level of all pixels, and from contrast on."""
    C, pixels = planes.shape
    contrast = 0
    while order[contrast] != CONTRAST:
        contrast += 1
    total = 0.0
    for begin, end in ((0, contrast), (contrast, 4)):
        level = f32(total / pixels)
        for start in range(0, pixels, BLOCK):
            stop = min(start + BLOCK, pixels)
            for step in range(begin, end):
                operation = order[step]
                factor = factors[operation]
                if operation in (BRIGHTNESS, CONTRAST):
                    base = level * (ONE - factor) if operation == CONTRAST else ZERO
                    for c in range(C):
                        blend(planes[c, start:stop], factor, base)
                elif C == 3 and operation == SATURATION:
                    saturate(planes[0, start:stop], planes[1, start:stop], planes[2, start:stop], factor)
                elif C == 3 and operation == HUE:
                    turn_hue(planes[0, start:stop], planes[1, start:stop], planes[2, start:stop], factor)
            if begin == 0 and end == contrast:
                total += gray_sum(planes, start, stop)


@contracted
def grayscale(r, g, b):
    for p in range(len(r)):
        r[p] = luma(r[p], g[p], b[p])


@inner
def solarize(x):
    for p in range(len(x)):
        x[p] = ONE - x[p] if x[p] >= BRIGHT else x[p]


# --------------------------------------------------------------------------------------------------------------- blur


@contracted
def convolve(source, taps, stride, out):
    """out[p] = Σ_k taps[|k|] · source[p + (k + radius)·stride], block by block."""
    radius = len(taps) - 1
    for start in range(0, len(out), BLOCK):
        part = out[start : start + BLOCK]
        n = len(part)
        middle, weight = source[start + radius * stride :], taps[0]
        for p in range(n):
            part[p] = weight * middle[p]
        for k in range(1, radius + 1):
            before, after, weight = source[start + (radius - k) * stride :], source[start + (radius + k) * stride :], taps[k]
            for p in range(n):
                part[p] += weight * (before[p] + after[p])


@inner
def blur(plane, rows, limit, sigma, padded, half, full):
    """`pixels.gaussian_blur` of one plane, R·S.  padded: at least (R + 2·limit)·(S + 2·limit) floats, half and full:
    R·(S + 2·limit).
    """
    size = len(plane) // rows
    radius = min(limit, math.ceil(SIX * sigma))  # beyond 6σ a weight is under 2e-8
    taps = np.empty(radius + 1, dtype=np.float32)
    total = ZERO
    for k in range(radius + 1):
        taps[k] = math.exp(-HALF * (f32(k) / sigma) ** 2)
        total += taps[k] if k == 0 else TWO * taps[k]
    for k in range(radius + 1):
        taps[k] /= total
    wide = size + 2 * radius
    for i in range(rows + 2 * radius):
        y = abs(i - radius)
        y = y if y < rows else 2 * (rows - 1) - y
        line, source = padded[i * wide : (i + 1) * wide], plane[y * size : (y + 1) * size]
        for j in range(size):
            line[radius + j] = source[j]
        for j in range(radius):
            line[j] = source[radius - j]
            line[radius + size + j] = source[size - 2 - j]
    # Both directions run through the padding too: a tenth more sums, and no borders to mind.
    convolve(padded, taps, wide, half[: rows * wide])
    convolve(half, taps, 1, full[: rows * wide - 2 * radius])
    for i in range(rows):
        line, source = plane[i * size : (i + 1) * size], full[i * wide : i * wide + size]
        for j in range(size):
            line[j] = source[j]


# ---------------------------------------------------------------------------------------------------------------- chain


@contracted
def interleave(r, g, b, gain, shift, out):
    """Three lines of n → n,3 in one line, normalized."""
    gain_r, gain_g, gain_b = gain[0], gain[1], gain[2]
    shift_r, shift_g, shift_b = shift[0], shift[1], shift[2]
    for p in range(len(r)):
        at = np.uintp(3 * p)
        out[at] = r[p] * gain_r + shift_r
        out[at + np.uintp(1)] = g[p] * gain_g + shift_g
        out[at + np.uintp(2)] = b[p] * gain_b + shift_b


@contracted
def store(planes, gray, gain, shift, out):
    """Normalize.  planes: C,R*S → out: R*S*C; of a gray view only the first plane counts."""
    if len(planes) == 1:
        x, weight, base = planes[0], gain[0], shift[0]
        for p in range(len(x)):
            out[p] = x[p] * weight + base
    elif gray:
        interleave(planes[0], planes[0], planes[0], gain, shift, out)
    else:
        interleave(planes[0], planes[1], planes[2], gain, shift, out)


ParamArrays = namedtuple("ParamArrays", "box flip jitter order factors grey blur sigma solarize")  # `ViewParams`, contiguous
Scratch = namedtuple("Scratch", "planes middle turned padded rows columns")  # memory that a thread uses for each of its images


@inner
def allocate(channels, source, rows, columns, radius):
    """Scratch for views of so many rows and columns; its rows and columns are `triangles`' (first, count, weights).

    source: height and width of the images; radius: the blur's.
    """
    height, width = source
    wide = columns + 2 * radius
    longest = max(rows * width, rows * wide)
    most = 2 * (max(height // rows, width // columns) + 2) + 1
    return Scratch(
        np.empty((channels, rows * columns), dtype=np.float32), np.empty(longest, dtype=np.float32),
        np.empty(longest, dtype=np.float32), np.empty((rows + 2 * radius) * wide, dtype=np.float32),
        (np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64), np.empty((rows, most), dtype=np.float32)),
        (np.empty(columns, dtype=np.int64), np.empty(columns, dtype=np.int64), np.empty((columns, most), dtype=np.float32)),
    )


_floats, _flags, _integers = types.float32[::1], types.boolean[::1], types.int64[:, ::1]
_images = types.Array(types.uint8, 4, "C", readonly=True)
_params = types.NamedTuple(
    (_integers, _flags, _flags, _integers, types.float32[:, ::1], _flags, _flags, _floats, _flags), ParamArrays
)


@compiled(types.void(_images, types.boolean, _params, _floats, _floats, types.float32[:, :, :, ::1], types.int64, types.int64))
def render_images(images, cropped, params, gain, shift, out, start, step):
    """Images start, start + step, …  images: B,C,H,W; out: B,R,S,C.  out = rendered · gain + shift, per channel."""
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
        if params.jitter[i]:
            jitter(planes, params.order[i], params.factors[i])
        is_gray = params.grey[i] or C == 1
        if params.grey[i] and C == 3:
            grayscale(planes[0], planes[1], planes[2])
        for c in range(1 if is_gray else C):
            if params.blur[i]:
                blur(planes[c], R, radius, params.sigma[i], scratch.padded, scratch.middle, scratch.turned)
            if params.solarize[i]:
                solarize(planes[c])
        store(planes, is_gray, gain, shift, out[i].reshape(R * S * C))


# -------------------------------------------------------------------------------------------------------------- tensors


def render(images: Tensor, params: ViewParams, size: Size, mean: Tensor, std: Tensor, cropped: bool) -> Tensor:
    """`augment.render` on a CPU.  images: B,C,H,W uint8, C 1 or 3 → B,C,h,w float32, channels-last."""
    C = images.shape[1]
    if C not in (1, 3):
        raise ValueError(f"images of {C} channels: augmentation takes 1 (gray) or 3 (color)")
    return in_threads(render_images, images, (cropped, ParamArrays(*arrays_of(ParamArrays._fields, params))), size, (mean, std))


def arrays_of(names: tuple[str, ...], params: ViewParams) -> list[np.ndarray]:
    """The parameters of these names as contiguous arrays, numbers as float32: as the compiled code takes them."""
    as_float = params.map(lambda values: values.float() if values.is_floating_point() else values)
    return [np.ascontiguousarray(getattr(as_float, name).numpy()) for name in names]


def in_threads(function: Callable, images: Tensor, given: tuple, size: Size, moments: tuple[Tensor, Tensor]) -> Tensor:
    """Every image by `function`, the threads taking turns.  images: B,C,H,W; given: whether they are the crops already, and
    the parameters' arrays; moments: mean and std → B,C,h,w float32, channels-last.
    """
    B, C, H, W = images.shape
    cropped, arrays = given
    assert not cropped or sides(size) == (H, W), (H, W, size)
    box = torch.from_numpy(arrays.box)
    if not cropped and len(box):
        fits = (box[:, :2] >= 0) & (box[:, 2:] > 0) & (box[:, :2] + box[:, 2:] <= torch.tensor([H, W]))
        assert fits.all(), "a crop leaves its image"
    out = torch.empty(B, C, *sides(size), memory_format=torch.channels_last)
    mean, std = moments
    gain = (1 / std.float()).expand(C)
    scales = [np.ascontiguousarray(values.numpy()) for values in (gain, -mean.float() * gain)]
    arguments = (np.ascontiguousarray(images.numpy()), cropped, arrays, *scales, out.permute(0, 2, 3, 1).numpy())
    threads = max(1, min(torch.get_num_threads(), B // 8))
    others = [threading.Thread(target=function, args=(*arguments, t, threads)) for t in range(1, threads)]
    for thread in others:
        thread.start()
    function(*arguments, 0, threads)
    for thread in others:
        thread.join()
    return out
