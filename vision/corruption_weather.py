"""Corruptions by weather (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261).

Each function: x B,C,H,W float32 in [0, 1], its constants, draws → B,C,H,W; the caller clips. Frost uses textures that are
computed here, where ImageNet-C has six photographs, so its figures are not those of ImageNet-C's frost.
"""
import cv2
import numpy as np

from vision.corruption_blur import gaussian_blur, streaked, zoomed
from vision.corruption_draws import Draws
from vision.preprocess import LUMA

ICE = (0.88, 0.95, 1.0)  # red, green, blue of frost
WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
FARTHEST = 20  # pixels from a drop's outline, beyond which distances count as equal


def snow(x: np.ndarray, constants: tuple[float, ...], draws: Draws) -> np.ndarray:
    """Whitened, with flakes that fall, and the same flakes turned by 180 degrees.

    constants: mean and deviation of the layer of flakes, its zoom, the value below which there is none, radius and σ of the
    streaks, the image's share beside its whitened form.
    """
    mean, deviation, zoom, least, radius, sigma, share = constants
    layer = zoomed(mean + deviation * draws.normal(0, 1, *x.shape[2:]), zoom)
    layer = np.where(layer < least, 0, layer.clip(0, 1)).astype(np.float32)
    layer = streaked(layer, int(radius), sigma, angles=draws.uniform(1, 1)[:, 0] * 90 - 135)
    whitened = np.maximum(x, 1.5 * _gray(x) + 0.5)
    return share * x + (1 - share) * whitened + layer + layer[:, :, ::-1, ::-1]


def frost(x: np.ndarray, constants: tuple[float, float], draws: Draws) -> np.ndarray:
    """constants: shares of the image and of the texture, which are added"""
    own, ice = constants
    H, W = x.shape[2:]
    ground, needles = (plasma(draws, use, max(H, W), decay)[:, :H, :W] for use, decay in ((0, 1.8), (1, 1.2)))
    texture = 0.6 * ground + 0.4 * (1 - np.abs(2 * needles - 1)) ** 4  # light and dark regions, and fine bright lines
    return own * x + ice * texture[:, None] * _color(ICE, x.shape[1])


def fog(x: np.ndarray, constants: tuple[float, float], draws: Draws) -> np.ndarray:
    """constants: how much fog is added before the brightest value is as before, and how smooth it is"""
    strength, decay = constants
    H, W = x.shape[2:]
    brightest = x.max((1, 2, 3), keepdims=True)
    fogged = x + strength * plasma(draws, 0, max(H, W), decay)[:, None, :H, :W]
    return fogged * brightest / (brightest + strength)


def plasma(draws: Draws, use: int, side: int, decay: float) -> np.ndarray:
    """Clouds by the diamond-square algorithm on a torus: each halving of the step divides what is random by decay².

    → B,S,S float32 from 0 to 1, S the power of two from `side` on
    """
    S = 2 ** int(np.ceil(np.log2(max(side, 2))))
    shift = draws.uniform(use, S, S).astype(np.float32) * 2 - 1
    out = np.zeros_like(shift)
    step, amplitude = S, 1.0
    while step >= 2:
        corner, middle = slice(0, None, step), slice(step // 2, None, step)
        corners = out[:, corner, corner]
        right, below = np.roll(corners, -1, 2), np.roll(corners, -1, 1)
        out[:, middle, middle] = (corners + right + below + np.roll(below, -1, 2)) / 4 + amplitude * shift[:, middle, middle]
        centers = out[:, middle, middle]
        above, left = np.roll(centers, 1, 1), np.roll(centers, 1, 2)
        out[:, corner, middle] = (corners + right + centers + above) / 4 + amplitude * shift[:, corner, middle]
        out[:, middle, corner] = (corners + below + centers + left) / 4 + amplitude * shift[:, middle, corner]
        step, amplitude = step // 2, amplitude / decay**2
    low, high = out.min((1, 2), keepdims=True), out.max((1, 2), keepdims=True)
    return (out - low) / (high - low)


def brightness(x: np.ndarray, more: float, draws: Draws) -> np.ndarray:
    """Added to the value of HSV, the largest of the channels; hue and saturation stay."""
    value = x.max(1, keepdims=True)
    new = (value + more).clip(0, 1)
    return np.where(value > 0, x * (new / np.maximum(value, 1e-9)), new)


def spatter(x: np.ndarray, constants: tuple[float, ...], draws: Draws) -> np.ndarray:
    """Drops of water, or at the higher severities of mud.

    constants: mean and deviation of the liquid's layer, σ of its blur, the value below which there is none, strength of water
    or σ of mud's blur, 1 for mud.
    """
    mean, deviation, sigma, least, last, mud = constants
    layer = gaussian_blur(mean + deviation * draws.normal(0, *x.shape[2:]), sigma)
    layer = np.where(layer < least, 0, layer.clip(0, 1)).astype(np.float32)
    if mud:
        mask = gaussian_blur((layer > least).astype(np.float32), last)
        mask = np.where(mask < 0.8, 0, mask)[:, None]
        return x * (1 - mask) + mask * _color(MUD, x.shape[1])
    drops = np.stack([_drops(one) for one in layer])[:, None]
    return x + last * drops * _color(WATER, x.shape[1])


def _drops(layer: np.ndarray) -> np.ndarray:
    """The liquid, brighter on the side of each drop that light falls on.  H,W in [0, 1] → the same, at most 1"""
    liquid = np.rint(layer * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    relief = cv2.equalizeHist(cv2.blur(np.minimum(distance, FARTHEST), (3, 3)).astype(np.uint8))
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    relief = cv2.blur(cv2.filter2D(relief, cv2.CV_8U, light), (3, 3)).astype(np.float32)
    lit = liquid.astype(np.float32) * relief
    return lit / max(float(lit.max()), 1.0)


def _gray(x: np.ndarray) -> np.ndarray:
    """B,1 or 3,H,W → B,1,H,W"""
    return x if x.shape[1] == 1 else sum(np.float32(part) * x[:, i : i + 1] for i, part in enumerate(LUMA))


def _color(rgb: tuple[float, float, float], channels: int) -> np.ndarray:
    """→ channels,1,1; of gray images its luma"""
    color = np.float32(rgb) if channels == 3 else np.float32([np.dot(LUMA, rgb)])
    return color[:, None, None]
