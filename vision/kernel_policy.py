"""The operations of vision/policy.py and vision/warp.py on one image, compiled.

planes: C,R*S floats in [0, 1], R rows of S, changed in place; spare: R*S floats
"""
import math

import numpy as np

from vision.compiling import contracted, inner
from vision.kernels import blend, gray_sum, saturate
from vision.policy import (
    AUTOCONTRAST,
    BRIGHTEN,
    COLOR,
    CONTRAST,
    EQUALIZE,
    POSTERIZE,
    ROTATE,
    SHARPEN,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    TO_BYTE,
    TRANSLATE_X,
    TRANSLATE_Y,
)  # fmt: skip
from vision.resample import ONE, ZERO, clamp, f32

BYTE, PER_LEVEL, FOUR, THIRTEENTH = map(f32, (TO_BYTE, 1 / 255, 4, 1 / 13))


@inner
def orient(planes, rows, vflip, turns, spare):
    """`warp.orient`."""
    if not vflip and turns == 0:
        return
    size = planes.shape[1] // rows
    bottom, last = rows - 1, size - 1
    for c in range(len(planes)):
        plane = planes[c]
        for p in range(rows * size):
            spare[p] = plane[p]
        for i in range(rows):
            for j in range(size):
                if turns == 0:
                    y, x = i, j
                elif turns == 1:
                    y, x = j, last - i
                elif turns == 2:
                    y, x = bottom - i, last - j
                else:
                    y, x = last - j, i
                y = bottom - y if vflip else y
                plane[i * size + j] = spare[y * size + x]


@contracted
def warp(planes, rows, matrix, spare):
    """`warp.warp`.  matrix: xx, xy, x1, yx, yy, y1, from an output pixel to its source, relative to the center"""
    xx, xy, x1, yx, yy, y1 = matrix
    size = planes.shape[1] // rows
    middle_x, middle_y = (size - 1) / 2, (rows - 1) / 2
    for c in range(len(planes)):
        plane = planes[c]
        for p in range(rows * size):
            spare[p] = plane[p]
        for i in range(rows):
            v = i - middle_y
            for j in range(size):
                u = j - middle_x
                x, y = xx * u + xy * v + x1 + middle_x, yx * u + yy * v + y1 + middle_y
                left, top = math.floor(x), math.floor(y)
                right, below = f32(x - left), f32(y - top)
                total = ZERO
                if 0 <= top < rows:
                    if 0 <= left < size:
                        total += (ONE - below) * (ONE - right) * spare[top * size + left]
                    if 0 <= left + 1 < size:
                        total += (ONE - below) * right * spare[top * size + left + 1]
                if 0 <= top + 1 < rows:
                    if 0 <= left < size:
                        total += below * (ONE - right) * spare[(top + 1) * size + left]
                    if 0 <= left + 1 < size:
                        total += below * right * spare[(top + 1) * size + left + 1]
                plane[i * size + j] = total


@inner
def rotation(angle):
    """`warp.rotation`.  angle: degrees"""
    radians = float(angle) * math.pi / 180
    cos, sin = math.cos(radians), math.sin(radians)
    return cos, -sin, 0.0, sin, cos, 0.0


@inner
def matrix_of(op, magnitude, height, width):
    """`policy.matrices`."""
    m = float(magnitude)
    if op == SHEAR_X:
        return 1.0, m, m * height / 2, 0.0, 1.0, 0.0
    if op == SHEAR_Y:
        return 1.0, 0.0, 0.0, m, 1.0, m * width / 2
    if op == TRANSLATE_X:
        return 1.0, 0.0, -m, 0.0, 1.0, 0.0
    if op == TRANSLATE_Y:
        return 1.0, 0.0, 0.0, 0.0, 1.0, -m
    return rotation(magnitude)


@contracted
def sharpen(plane, rows, factor, spare):
    size = len(plane) // rows
    if size <= 2 or rows <= 2:
        return
    for p in range(rows * size):
        spare[p] = plane[p]
    for i in range(1, rows - 1):
        for j in range(1, size - 1):
            at = i * size + j
            total = FOUR * spare[at]
            for line in (at - size, at, at + size):
                total += spare[line - 1] + spare[line] + spare[line + 1]
            base = total * THIRTEENTH
            plane[at] = clamp(base + factor * (spare[at] - base))


@inner
def posterize(x, bits):
    levels = f32(2.0**bits)
    for p in range(len(x)):
        level = np.floor(x[p] * levels)
        x[p] = (level if level < levels - ONE else levels - ONE) / levels


@inner
def autocontrast(x):
    low, high = x[0], x[0]
    for p in range(len(x)):
        low = x[p] if x[p] < low else low
        high = x[p] if x[p] > high else high
    if high > low:
        for p in range(len(x)):
            x[p] = clamp((x[p] - low) / (high - low))


@inner
def equalize(x):
    table = np.zeros(256, dtype=np.int64)
    brightest = 0
    for p in range(len(x)):
        level = int(x[p] * BYTE)
        table[level] += 1
        brightest = max(brightest, level)
    step = (len(x) - table[brightest]) // 255
    below = 0
    for level in range(256):
        count = table[level]
        table[level] = min(255, (below + step // 2) // step) if step > 0 else level
        below += count
    for p in range(len(x)):
        x[p] = f32(table[int(x[p] * BYTE)]) * PER_LEVEL


@inner
def apply(planes, rows, ops, magnitudes, spare):
    """`policy.apply` to one image."""
    C, pixels = planes.shape
    for step in range(len(ops)):
        op, magnitude = ops[step], magnitudes[step]
        if SHEAR_X <= op <= ROTATE:
            warp(planes, rows, matrix_of(op, magnitude, rows, pixels // rows), spare)
            continue
        if op == COLOR:
            if C == 3:
                saturate(planes[0], planes[1], planes[2], ONE + magnitude)
            continue
        level = ZERO
        if op == CONTRAST:
            level = f32(gray_sum(planes, 0, pixels) / pixels) * -magnitude
        for c in range(C):
            x = planes[c]
            if op in (BRIGHTEN, CONTRAST):
                blend(x, ONE + magnitude, level)
            elif op == SHARPEN:
                sharpen(x, rows, ONE + magnitude, spare)
            elif op == POSTERIZE:
                posterize(x, magnitude)
            elif op == SOLARIZE:
                for p in range(pixels):
                    x[p] = ONE - x[p] if x[p] >= magnitude else x[p]
            elif op == AUTOCONTRAST:
                autocontrast(x)
            elif op == EQUALIZE:
                equalize(x)
