"""The views of vision/augment.py on a CPU, compiled: each image goes through its whole chain while it is in cache.

What an image does not draw costs nothing, and neighbouring operations run block by block. The results are those of
vision/pixels.py to float32 rounding, and to the bit the same in any batch and at any number of threads, because no
image shares a sum with another one.

The first import compiles, for some seconds; the code is then kept in __pycache__ until this file changes: after a change
to what it imports (vision/resample.py, a constant of vision/pixels.py), save it anew. Threads are started by each call
and end with it: so they neither compete with torch's own nor keep a process from forking.
"""
import math
import threading

import numpy as np
import torch
from numba import types
from torch import Tensor

from vision.pixels import BRIGHTNESS, CONTRAST, GREY, HUE, SATURATION, SOLARIZE_AT
from vision.resample import HALF, ONE, ZERO, clamp, compiled, contracted, f32, inner, load, resize, summing, triangles

BLOCK = 1024  # pixels that go through several operations together: three planes of floats take 12 KiB of first-level cache
RED, GREEN, BLUE = map(f32, GREY)
TWO, THREE, SIX = map(f32, (2, 3, 6))
BRIGHT, TINY, SIXTH = map(f32, (SOLARIZE_AT, 1e-12, 1 / 6))

# --------------------------------------------------------------------------------------------------------- per pixel


@contracted
def luma(r, g, b):
    return RED * r + GREEN * g + BLUE * b


@contracted
def blend(x, factor, base):
    """Brightness (base 0) and contrast (base: the mean grey level times 1 − factor)."""
    for p in range(len(x)):
        x[p] = clamp(x[p] * factor + base)


@contracted
def saturate(r, g, b, factor):
    rest = ONE - factor
    for p in range(len(r)):
        grey = luma(r[p], g[p], b[p]) * rest
        r[p], g[p], b[p] = clamp(r[p] * factor + grey), clamp(g[p] * factor + grey), clamp(b[p] * factor + grey)


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
def grey_sum(planes, start, stop):
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
    """Two sweeps: up to contrast, which needs the mean grey level of all pixels, and from contrast on."""
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
                total += grey_sum(planes, start, stop)


@contracted
def greyscale(r, g, b):
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
def blur(plane, size, limit, sigma, padded, half, full):
    """`pixels.gaussian_blur` of one plane.  padded: at least (S + 2·limit)² floats, half and full: S·(S + 2·limit)."""
    radius = min(limit, math.ceil(SIX * sigma))  # beyond 6σ a weight is under 2e-8
    taps = np.empty(radius + 1, dtype=np.float32)
    total = ZERO
    for k in range(radius + 1):
        taps[k] = math.exp(-HALF * (f32(k) / sigma) ** 2)
        total += taps[k] if k == 0 else TWO * taps[k]
    for k in range(radius + 1):
        taps[k] /= total
    wide = size + 2 * radius
    for i in range(wide):
        y = abs(i - radius)
        y = y if y < size else 2 * (size - 1) - y
        line, source = padded[i * wide : (i + 1) * wide], plane[y * size : (y + 1) * size]
        for j in range(size):
            line[radius + j] = source[j]
        for j in range(radius):
            line[j] = source[radius - j]
            line[radius + size + j] = source[size - 2 - j]
    # Both directions run through the padding too: a tenth more sums, and no borders to mind.
    convolve(padded, taps, wide, half[: size * wide])
    convolve(half, taps, 1, full[: size * wide - 2 * radius])
    for i in range(size):
        line, source = plane[i * size : (i + 1) * size], full[i * wide : i * wide + size]
        for j in range(size):
            line[j] = source[j]


# ---------------------------------------------------------------------------------------------------------------- chain


@contracted
def interleave(r, g, b, gain, shift, out):
    """Three lines of n → n,3 in one line, normalised."""
    gain_r, gain_g, gain_b = gain[0], gain[1], gain[2]
    shift_r, shift_g, shift_b = shift[0], shift[1], shift[2]
    for p in range(len(r)):
        at = np.uintp(3 * p)
        out[at] = r[p] * gain_r + shift_r
        out[at + np.uintp(1)] = g[p] * gain_g + shift_g
        out[at + np.uintp(2)] = b[p] * gain_b + shift_b


@contracted
def store(planes, grey, gain, shift, out):
    """Normalise.  planes: C,S*S → out: S*S*C; of a grey view only the first plane counts."""
    if len(planes) == 1:
        x, weight, base = planes[0], gain[0], shift[0]
        for p in range(len(x)):
            out[p] = x[p] * weight + base
    elif grey:
        interleave(planes[0], planes[0], planes[0], gain, shift, out)
    else:
        interleave(planes[0], planes[1], planes[2], gain, shift, out)


_f32, _flags = types.float32[::1], types.boolean[::1]
_u8 = types.Array(types.uint8, 4, "C", readonly=True)


@compiled(types.void(_u8, types.boolean, types.int64[:, ::1], _flags, _flags, types.int64[:, ::1], types.float32[:, ::1],
                     _flags, _flags, _f32, _flags, _f32, _f32, types.float32[:, :, :, ::1], types.int64, types.int64))
def render_images(images, cropped, box, flip, jittered, order, factors, grey, blurred, sigma, solarized, gain, shift, out,
                  start, step):
    """Images start, start + step, …  images: B,C,H,W; out: B,S,S,C."""
    B, C, H, W = images.shape
    S = out.shape[1]
    limit = min(max(1, S // 20), S - 1)  # the blur's radius
    wide = S + 2 * limit
    planes = np.empty((C, S * S), dtype=np.float32)
    middle = np.empty(max(S * W, S * wide), dtype=np.float32)
    turned = np.empty(max(S * W, S * wide), dtype=np.float32)
    padded = np.empty(wide * wide, dtype=np.float32)
    most = 2 * (max(H, W) // S + 2) + 1
    rows = np.empty(S, dtype=np.int64), np.empty(S, dtype=np.int64), np.empty((S, most), dtype=np.float32)
    columns = np.empty(S, dtype=np.int64), np.empty(S, dtype=np.int64), np.empty((S, most), dtype=np.float32)
    for i in range(start, B, step):
        if cropped:
            load(images[i], flip[i], S, planes)
        else:
            triangles(box[i, 2], S, False, *rows)
            triangles(box[i, 3], S, flip[i], *columns)
            resize(images[i], box[i, 0], box[i, 1], rows, columns, S, planes, middle, turned)
        if jittered[i]:
            jitter(planes, order[i], factors[i])
        is_grey = grey[i] or C == 1
        if grey[i] and C == 3:
            greyscale(planes[0], planes[1], planes[2])
        for c in range(1 if is_grey else C):
            if blurred[i]:
                blur(planes[c], S, limit, sigma[i], padded, middle, turned)
            if solarized[i]:
                solarize(planes[c])
        store(planes, is_grey, gain, shift, out[i].reshape(S * S * C))


# -------------------------------------------------------------------------------------------------------------- tensors


def render(images: Tensor, draw, size: int, mean: Tensor, std: Tensor, cropped: bool) -> Tensor:
    """`augment.render` on a CPU.  images: B,C,H,W uint8 → B,C,S,S float32, channels-last."""
    B, C, H, W = images.shape
    if C not in (1, 3):
        raise ValueError(f"images of {C} channels: augmentation knows grey (1) and colour (3)")
    assert not cropped or H == W == size, (H, W, size)
    box = draw.box
    if not cropped and len(box):
        fits = (box[:, :2] >= 0) & (box[:, 2:] > 0) & (box[:, :2] + box[:, 2:] <= torch.tensor([H, W]))
        assert fits.all(), "a crop leaves its image"
    out = torch.empty(B, C, size, size, memory_format=torch.channels_last)
    gain = (1 / std.float()).expand(C)
    fields = [draw.box, draw.flip, draw.jitter, draw.order, draw.factors.float(), draw.grey, draw.blur, draw.sigma.float(),
              draw.solarize, gain, -mean.float() * gain]
    arrays = [np.ascontiguousarray(f.numpy()) for f in fields]
    arguments = (np.ascontiguousarray(images.numpy()), cropped, *arrays, out.permute(0, 2, 3, 1).numpy())
    threads = max(1, min(torch.get_num_threads(), B // 8))
    others = [threading.Thread(target=render_images, args=(*arguments, t, threads)) for t in range(1, threads)]
    for thread in others:
        thread.start()
    render_images(*arguments, 0, threads)
    for thread in others:
        thread.join()
    return out
