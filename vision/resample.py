"""Resampling on a CPU, compiled: crop, antialiased bilinear resize and flip of one image."""
import math

import numpy as np

from vision.compiling import contracted, inner

f32 = np.float32
ZERO, HALF, ONE = map(f32, (0, 0.5, 1))
PER_LEVEL = f32(1 / 255)


@inner
def triangles(length, size, flip, first, count, weights):
    """`pixels.resize_weights`, sparse: output o is the sum over k < count[o] of weights[o, k] · pixel[first[o] + k]."""
    scale = f32(length) / f32(size)
    width = max(scale, ONE)
    for o in range(size):
        output = f32(o) + HALF
        if flip:
            output = f32(size) - output
        center = output * scale
        low = max(0, math.floor(center - width - HALF))
        high = min(length, math.ceil(center + width + HALF))
        taps, total = 0, ZERO
        for pixel in range(low, high):
            weight = ONE - abs(f32(pixel) + HALF - center) / width
            if weight > ZERO:
                if taps == 0:
                    first[o] = pixel
                weights[o, taps] = weight
                total += weight
                taps += 1
        count[o] = taps
        for k in range(taps):
            weights[o, k] /= total


@inner
def clamp(x):
    x = x if x > ZERO else ZERO
    return x if x < ONE else ONE


@inner
def transpose(source, rows, columns, out):
    """rows·columns → columns·rows."""
    for j in range(columns):
        for i in range(rows):
            out[np.uintp(j * rows + i)] = source[np.uintp(i * columns + j)]


@contracted
def resize(image, top, left, rows, columns, planes, middle, turned):
    """Crop, antialiased bilinear resize, flip.  image: C,H,W uint8 → planes: C,R*S in [0, 1], R rows and S columns.

    rows, columns: (first, count, weights). Both passes run along contiguous memory, hence the transpositions.
    middle, turned: scratch of at least R·max(w, S).
    """
    first_y, count_y, weight_y = rows
    first_x, count_x, weight_x = columns
    R, S = len(first_y), len(first_x)
    low = min(first_x[0], first_x[S - 1])  # flipped, the last comes first
    width = max(first_x[0] + count_x[0], first_x[S - 1] + count_x[S - 1]) - low
    begin, end = left + low, left + low + width
    for c in range(image.shape[0]):
        for i in range(R):
            line, y = middle[i * width : (i + 1) * width], top + first_y[i]
            source, weight = image[c, y, begin:end], weight_y[i, 0]
            for x in range(width):
                line[x] = weight * f32(source[x])
            for k in range(1, count_y[i]):
                source, weight = image[c, y + k, begin:end], weight_y[i, k]
                for x in range(width):
                    line[x] += weight * f32(source[x])
        transpose(middle, R, width, turned)
        for j in range(S):
            line, start = middle[j * R : (j + 1) * R], (first_x[j] - low) * R
            source, weight = turned[start : start + R], weight_x[j, 0]
            for i in range(R):
                line[i] = weight * source[i]
            for k in range(1, count_x[j]):
                source, weight = turned[start + k * R : start + (k + 1) * R], weight_x[j, k]
                for i in range(R):
                    line[i] += weight * source[i]
        for p in range(R * S):
            middle[p] = clamp(middle[p] * PER_LEVEL)
        transpose(middle, S, R, planes[c])


@inner
def load(image, flip, planes):
    """C,R,S uint8 → planes: C,R*S in [0, 1]."""
    C, R, size = image.shape
    for c in range(C):
        for i in range(R):
            line, source = planes[c, i * size : (i + 1) * size], image[c, i]
            if flip:
                for j in range(size):
                    line[j] = f32(source[np.uintp(size - 1 - j)]) * PER_LEVEL  # unsigned: cannot count from the end
            else:
                for j in range(size):
                    line[j] = f32(source[j]) * PER_LEVEL
