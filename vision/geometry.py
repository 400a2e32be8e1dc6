"""How an image of any shape becomes an input of one shape: one record for evaluation, export and service. No torch here."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core import image_size
from core.image_size import Size

CROP, SQUASH, LETTERBOX = FITS = ("crop", "squash", "letterbox")


@dataclass(frozen=True)
class Placement:
    """Where an image's pixels come to lie.  height, width, top, left: of what is filled, in pixels of the input.

    box: left, top, right, bottom of the source, in its pixels, fractions included, that is resized to height × width.
    """

    height: int
    width: int
    box: tuple[float, float, float, float]
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Geometry:
    """height, width: of the input, in pixels.  fit:

    crop: the image is scaled so that it covers the input, and its center is kept. For a square that is torchvision's
    Resize(size), CenterCrop(size), in one step; for a rectangle Pillow's ImageOps.fit, which rounds nothing.
    squash: both sides are scaled to the input's, whatever that does to proportions: torchvision's Resize((height, width)).
    letterbox: the image is scaled so that it fits in whole, and centered; `fill` (one value a channel, in 0..1: the mean of the
    normalization) surrounds it, so that the border is 0 after normalization. Of 8-bit images it is the nearest of 256 levels.
    That is Pillow's ImageOps.pad.
    """

    height: int
    width: int
    fit: str = CROP
    fill: tuple[float, ...] = ()

    @staticmethod
    def of(size: Size | Geometry) -> Geometry:
        """A size alone is fit="crop"."""
        return size if isinstance(size, Geometry) else Geometry(*image_size.sides(size))

    @property
    def size(self) -> Size:
        return image_size.of(self.height, self.width)

    @property
    def is_center_square(self) -> bool:
        """Is it what every version had: a square, cropped?"""
        return self.height == self.width and self.fit == CROP

    @property
    def key(self) -> Size | list:
        """For the names of caches: of a cropped image its size."""
        return self.size if self.fit == CROP else [self.height, self.width, self.fit, *self.fill]

    def placement(self, height: int, width: int) -> Placement:
        """Of an image so high and wide, in pixels."""
        if self.fit == CROP:
            spans = square_spans if self.height == self.width else cover_spans
            (left, right), (top, bottom) = spans(self, height, width)
            return Placement(self.height, self.width, (left, top, right, bottom))
        whole = (0.0, 0.0, float(width), float(height))
        if self.fit == SQUASH:
            return Placement(self.height, self.width, whole)
        inner_height, inner_width = self.height, self.width
        if width / height > self.width / self.height:  # Pillow's `ImageOps.contain`, and at least a pixel
            inner_height = max(1, round(height / width * self.width))
        elif width / height != self.width / self.height:
            inner_width = max(1, round(width / height * self.height))
        top, left = round((self.height - inner_height) * 0.5), round((self.width - inner_width) * 0.5)
        return Placement(inner_height, inner_width, whole, top, left)

    def padded(self, pixels: np.ndarray, place: Placement) -> np.ndarray:
        """C,h,w of a placement → C,height,width; uint8, or float32 in 0..1."""
        if (place.height, place.width) == (self.height, self.width):
            return pixels
        fill = np.array(self.fill, np.float64)
        fill = np.rint(255 * fill) if pixels.dtype == np.uint8 else fill
        out = np.empty((len(pixels), self.height, self.width), pixels.dtype)
        out[:] = fill.astype(pixels.dtype)[:, None, None]
        out[:, place.top : place.top + place.height, place.left : place.left + place.width] = pixels
        return out


Spans = tuple[tuple[float, float], tuple[float, float]]  # left and right, top and bottom, in source pixels


def square_spans(geometry: Geometry, height: int, width: int) -> Spans:
    """The center square of an image, with torchvision's rounding."""
    size, shortest = geometry.height, min(height, width)

    def span(side: int) -> tuple[float, float]:
        scaled = int(size * side / shortest)  # torchvision's rounding, of the side …
        start = round((scaled - size) / 2)  # … and of the crop
        return start * side / scaled, (start + size) * side / scaled

    return span(width), span(height)


def cover_spans(geometry: Geometry, height: int, width: int) -> Spans:
    """The largest centered part of an image that has the input's proportions."""
    ratio, own = geometry.width / geometry.height, width / height
    inner_width, inner_height = float(width), float(height)
    if own > ratio:
        inner_width = ratio * height
    elif own < ratio:
        inner_height = width / ratio
    left, top = (width - inner_width) * 0.5, (height - inner_height) * 0.5
    return (left, left + inner_width), (top, top + inner_height)
