"""Pictures of dense evaluation as PNG bytes: what was predicted for each pixel, and patch features as colors."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.figures import INK, canvas, drawn
from linear_eval.pictures import WRONG, short
from vision.segmentation import IGNORED

SHOWN = 8  # images on a sheet
BESIDE = 2  # of them in a row
NAMED = 24  # classes that a sheet's legend names, at most
CELL = 1.1  # inches
UNKNOWN = (160, 160, 160)  # the color of ignored pixels
REACH = 2.3  # standard deviations of the first component at which a color ends


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """image: 1 or 3,h,w uint8, as it was seen; truth and predicted: H,W labels at the mask's own size"""

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def evenly_shown(count: int, shown: int = SHOWN) -> list[int]:
    """Positions of the images that a sheet shows, of `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, shown)).astype(int)).tolist()


def colored(labels: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """H,W labels → H,W,3 uint8; ignored pixels are gray"""
    table = np.full((IGNORED + 1, 3), UNKNOWN, np.uint8)
    table[: len(colors)] = np.array(colors, np.uint8)
    return table[labels]


def errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Right pixels white, wrong ones orange, ignored ones gray.  H,W labels each → H,W,3 uint8"""
    orange = [int(WRONG[i : i + 2], 16) for i in (1, 3, 5)]
    wrong = np.where((truth == predicted)[:, :, None], np.uint8(255), np.array(orange, np.uint8))
    return np.where((truth == IGNORED)[:, :, None], np.array(UNKNOWN, np.uint8), wrong)


@drawn
def segmentation_sheet(images: Sequence[SegmentedImage], classes: Sequence[str], colors: Sequence[tuple[int, int, int]]):
    """Of each image: itself, the truth, the prediction, and where both differ. The legend names the classes that are shown."""
    from matplotlib.patches import Patch

    lines = -(-len(images) // BESIDE)
    seen = sorted({int(label) for one in images for side in (one.truth, one.predicted) for label in np.unique(side)})
    seen = [label for label in seen if label < len(classes)][:NAMED]
    legend = 0.25 * -(-len(seen) // 6) + 0.2
    figure, axes = canvas(4 * BESIDE * CELL, lines * CELL + 0.2 + legend, lines, 4 * BESIDE)
    for axis in axes.flat:
        axis.axis("off")
    for place, one in enumerate(images):
        line, start = place // BESIDE, 4 * (place % BESIDE)
        shown = {
            "image": np.broadcast_to(one.image, (3, *one.image.shape[1:])).transpose(1, 2, 0),
            "truth": colored(one.truth, colors), "prediction": colored(one.predicted, colors),
            "error": errors(one.truth, one.predicted),
        }
        for axis, (title, pixels) in zip(axes[line, start:], shown.items(), strict=False):
            axis.imshow(pixels, interpolation="nearest")
            axis.axis("on")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color="#dddddd")
            if line == 0:
                axis.set_title(title, fontsize=8, color=INK)
    handles = [Patch(facecolor=np.array(colors[k]) / 255, edgecolor=INK, label=short(classes[k])) for k in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def pca_maps(patches: np.ndarray) -> np.ndarray:
    """The first three principal components of patch features as red, green and blue.  N,h,w,D → N,h,w,3 in 0..1

    Patches alone, without class token and registers. One fit for all N images, so that a color means the same in all of them.
    A component's sign, which is arbitrary, is the one with skewness 0 or more; the standard deviation of the first is the
    unit of all three, and ±REACH of it are the ends of the colors, as in CAPI (arXiv 2502.08769).
    """
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    rows -= rows.mean(0)
    _, axes = np.linalg.eigh(rows.T @ rows)
    found = rows @ axes[:, ::-1][:, :3]
    found *= np.where((found**3).sum(0) < 0, -1, 1)
    unit = max(found[:, 0].std(), 1e-12)
    colors = np.full((len(rows), 3), 0.5)
    colors[:, : found.shape[1]] = np.clip(found / unit / REACH, -1, 1) / 2 + 0.5
    return colors.reshape(*patches.shape[:-1], 3)


@drawn
def pca_sheet(images: np.ndarray, patches: np.ndarray):
    """Images, and `pca_maps` of each by itself and of all together.  N,C,S,S uint8 and N,h,w,D"""
    joint, alone = pca_maps(patches), [pca_maps(one[None])[0] for one in patches]
    figure, axes = canvas(max(3, len(images)) * CELL + 0.8, 3 * CELL + 0.2, 3, len(images))
    for column, (image, own, shared) in enumerate(zip(images, alone, joint, strict=True)):
        pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
        shown_as = {"image": pixels, "its own": own, "all images'": shared}
        for axis, (title, shown) in zip(axes[:, column], shown_as.items(), strict=True):
            axis.imshow(shown, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if column == 0:
                axis.set_ylabel(title, fontsize=8, color=INK)
    return figure
