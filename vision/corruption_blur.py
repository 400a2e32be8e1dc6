"""Corruptions by blur (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261).

Each function: x B,C,H,W float32 in [0, 1], its constants, draws → B,C,H,W; the caller clips.
"""
import cv2
import numpy as np
from scipy import ndimage

from vision.compiling import inner
from vision.corruption_draws import Draws


def gaussian_blur(x: np.ndarray, sigma: float, draws: Draws | None = None) -> np.ndarray:
    """The edge repeated beyond the border, weights up to 4 σ.  …,H,W"""
    return ndimage.gaussian_filter(x, sigma, mode="nearest", truncate=4.0, axes=(-2, -1))


def defocus_blur(x: np.ndarray, constants: tuple[float, float], draws: Draws) -> np.ndarray:
    """A disk in place of every point.  constants: radius in pixels, and the deviation that smooths the disk's rim"""
    kernel = disk(*constants)
    planes = [cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT_101) for plane in x.reshape(-1, *x.shape[2:])]
    return np.stack(planes).reshape(x.shape)


def disk(radius: float, smoothing: float) -> np.ndarray:
    """→ K,K float32 that sums to 1: a disk, smoothed over 3 × 3 pixels, over 5 × 5 from a radius of more than 8"""
    reach = np.arange(-int(radius) - 3, int(radius) + 4)
    inside = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(inside / inside.sum(), (side, side), sigmaX=smoothing)


def glass_blur(x: np.ndarray, constants: tuple[float, int, int], draws: Draws) -> np.ndarray:
    """Blurred, pixels exchanged with near ones, blurred again.

    constants: σ; shift, the offset is one of −shift … shift − 1 in both directions; passes over the image.
    """
    sigma, shift, passes = constants
    H, W = x.shape[2:]
    offsets = np.floor(draws.uniform(0, passes, H, W, 2) * (2 * shift)).astype(np.int64) - shift
    out = np.ascontiguousarray(gaussian_blur(x, sigma))
    exchange(out, offsets, shift)
    return gaussian_blur(out, sigma)


@inner
def exchange(images, offsets, shift):
    """Each pixel, from the lower right on, changes place with the one at its offset.  B,C,H,W in place; B,passes,H,W,2"""
    B, C, H, W = images.shape
    for b in range(B):
        for n in range(offsets.shape[1]):
            for i in range(H - shift - 1, shift - 1, -1):
                for j in range(W - shift - 1, shift - 1, -1):
                    u, v = i + offsets[b, n, i, j, 0], j + offsets[b, n, i, j, 1]
                    for c in range(C):
                        kept = images[b, c, i, j]
                        images[b, c, i, j] = images[b, c, u, v]
                        images[b, c, u, v] = kept


def motion_blur(x: np.ndarray, constants: tuple[int, float], draws: Draws) -> np.ndarray:
    """Along a direction of −45 … 45 degrees.  constants: radius and σ in pixels"""
    return streaked(x, *constants, angles=draws.uniform(0, 1)[:, 0] * 90 - 45)


def streaked(x: np.ndarray, radius: int, sigma: float, angles: np.ndarray) -> np.ndarray:
    """The mean of 2 radius + 1 pixels in a direction, with the weights of half a Gaussian; the edge is repeated.

    x: B,C,H,W; angles: B, in degrees.
    """
    reach = 2 * radius
    weights = np.exp(-np.arange(reach + 1) ** 2 / (2 * sigma**2)).astype(np.float32)
    weights /= weights.sum()
    H, W = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    out = np.zeros_like(x)
    for image, wide, angle in zip(out, padded, np.deg2rad(angles), strict=True):
        for i, weight in enumerate(weights):
            down, right = (int(np.ceil(i * part - 0.5)) + reach for part in (np.sin(angle), np.cos(angle)))
            image += weight * wide[:, down : down + H, right : right + W]
    return out


def zoom_blur(x: np.ndarray, constants: tuple[float, float], draws: Draws) -> np.ndarray:
    """The mean of the image and of its zooms by 1, 1 + step, … up to the largest.  constants: largest, step"""
    largest, step = constants
    factors = np.arange(1, largest + 1e-9, step)
    out = x.copy()
    for factor in factors:
        out += zoomed(x, factor)
    return out / (len(factors) + 1)


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The central part enlarged to the image's size, bilinear between pixel centers.  …,H,W, factor ≥ 1 → …,H,W"""
    for axis in (-2, -1):
        side = x.shape[axis]
        at = ((np.arange(side) + 0.5 - side / 2) / factor + side / 2 - 0.5).clip(0, side - 1)
        first = np.minimum(at.astype(np.int64), max(side - 2, 0))
        second = np.float32(at - first).reshape((-1, 1) if axis == -2 else (1, -1))  # the weight of the pixel after it
        x = x.take(first, axis) * (1 - second) + x.take(np.minimum(first + 1, side - 1), axis) * second
    return x
