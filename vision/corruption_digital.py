"""Digital corruptions (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261).

Each function: x B,C,H,W float32 in [0, 1], its constants, draws → B,C,H,W; the caller clips.
"""
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv

from vision.corruption_draws import Draws


def contrast(x: np.ndarray, factor: float, draws: Draws) -> np.ndarray:
    """About the mean of each channel."""
    mean = x.mean((2, 3), keepdims=True)
    return (x - mean) * factor + mean


def saturate(x: np.ndarray, constants: tuple[float, float], draws: Draws) -> np.ndarray:
    """HSV's saturation times a factor, plus a term.  x: B,3,H,W"""
    factor, term = constants
    hsv = rgb2hsv(x, channel_axis=1)
    hsv[:, 1] = (hsv[:, 1] * factor + term).clip(0, 1)
    return hsv2rgb(hsv, channel_axis=1)


def pixelate(x: np.ndarray, share: float, draws: Draws) -> np.ndarray:
    """Made smaller by Pillow's box filter, with sides of that share, and enlarged again."""
    H, W = x.shape[2:]
    small, whole = (max(1, int(W * share)), max(1, int(H * share))), (W, H)

    def coarse(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize(small, Image.Resampling.BOX).resize(whole, Image.Resampling.BOX))

    return _as_bytes(x, lambda image: np.stack([coarse(plane) for plane in image]))


def jpeg(x: np.ndarray, quality: int, draws: Draws) -> np.ndarray:
    """Compressed by Pillow: RGB as one file, other channels each as a gray one."""

    def compressed(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    def image(pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == 3:
            return compressed(np.ascontiguousarray(pixels.transpose(1, 2, 0))).transpose(2, 0, 1)
        return np.stack([compressed(plane) for plane in pixels])

    return _as_bytes(x, image)


def _as_bytes(x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The function of each image as C,H,W uint8."""
    return np.stack([function(image) for image in np.rint(x * 255).astype(np.uint8)]).astype(np.float32) / 255


def elastic_transform(x: np.ndarray, constants: tuple[float, float, float], draws: Draws) -> np.ndarray:
    """A random affine map, and then every pixel from beside its place; both bilinear, the border mirrored.

    constants: how far smoothed numbers of −1 … 1 move a pixel, the σ that smooths them, and how far three points of the
    central square are moved by the affine map, all as shares of the shorter side.
    """
    H, W = x.shape[2:]
    distance, sigma, affine = (share * min(H, W) for share in constants)
    grid = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij")).astype(np.float64)  # 2,H,W
    center, reach = np.array([H // 2, W // 2]), min(H, W) // 3
    corners = center + reach * np.array([[1, 1], [-1, 1], [-1, -1]])  # 3,2
    moved = corners + (draws.uniform(0, 3, 2) * 2 - 1) * affine
    places = np.stack([_back(grid, corners, points) for points in moved])  # B,2,H,W
    out = _sampled(x, places)
    if not distance:
        return out
    rows, columns = (ndimage.gaussian_filter1d(np.eye(side), sigma, 0, mode="reflect", truncate=3.0) for side in (H, W))
    shifts = rows @ (draws.uniform(1, 2, H, W) * 2 - 1) @ columns.T * distance
    return _sampled(out, grid + shifts)


def _back(grid: np.ndarray, corners: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Where the pixels of the moved image come from.  grid: 2,H,W; corners, moved: 3,2 → 2,H,W"""
    ones = np.ones((3, 1))
    matrix = np.linalg.lstsq(np.hstack([moved, ones]), np.hstack([corners, ones]), rcond=None)[0]  # 3,3
    return np.tensordot(matrix[:2, :2], grid, (0, 0)) + matrix[2, :2, None, None]


def _sampled(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """B,C,H,W at places B,2,H,W → B,C,H,W"""
    planes = [[ndimage.map_coordinates(plane, at, order=1, mode="reflect") for plane in image]
              for image, at in zip(x, places, strict=True)]
    return np.array(planes, np.float32)
