"""An 8-bit color file as an array from which crops are cut: what pretraining reads, while `decode` gives an image.

Of a JPEG the array comes from simplejpeg, without a Pillow image in between (experiments/speed/decoding.py measures what that
saves). Pixels are the same, as both have libjpeg-turbo; what simplejpeg warns of is left to Pillow.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from vision.decode import TURNS, decode, opened, orientation_of

try:
    import simplejpeg
except ImportError:  # there is no wheel for every machine
    simplejpeg = None
if not features.check_feature("libjpeg_turbo"):  # another decoder would give other pixels
    simplejpeg = None
SMALLEST = 8  # pixels a side: of smaller images the two choose other scales


@dataclass(frozen=True)
class ColorImage:
    """pixels: H,W,3 uint8; width and height as of a Pillow image."""

    pixels: np.ndarray

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def crop_resize(self, box: list[int], out: Tensor) -> None:
        """torchvision's resized_crop of a PIL image, to the bit.  box: top, left, height, width; out: 3,h,w uint8"""
        from vision import resize  # on first use: importing numba takes half a second

        top, left, height, width = box
        if out.shape[1] == out.shape[2] and resize.columns_first(height, width, out.shape[-1]):
            resize.crop_resize(self.pixels, top, left, height, width, out.numpy())
        else:
            crop = Image.fromarray(self.pixels[top : top + height, left : left + width])
            out.copy_(torch.from_numpy(np.array(crop.resize(out.shape[:0:-1], Image.Resampling.BILINEAR))).permute(2, 0, 1))


def read_color(file: BinaryIO, at_least: int | None = None) -> ColorImage:
    """The pixels of `decode(file, at_least)`.  Raises Unreadable; OSError where the file cannot be read."""
    pixels = _jpeg(file, at_least) if simplejpeg and file.read(2) == b"\xff\xd8" else None
    if pixels is None:
        file.seek(0)
        pixels = np.asarray(decode(file, at_least))
    return ColorImage(pixels)


def _jpeg(file: BinaryIO, at_least: int | None) -> np.ndarray | None:
    """H,W,3, upright; None of what is rare (CMYK, a few pixels) or broken, of which Pillow has the last word."""
    file.seek(0)
    body = file.read()
    try:
        image = opened(io.BytesIO(body))
        if image.mode not in ("RGB", "L") or min(image.size) < SMALLEST:
            return None
        image.draft("RGB", (at_least, at_least) if at_least else None)  # computes the size alone; decodes nothing
        pixels = simplejpeg.decode_jpeg(body, "RGB", min_height=image.height, min_width=image.width)
    except Exception:
        return None
    turn = TURNS.get(orientation_of(image))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
