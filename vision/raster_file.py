"""What a reader of image files with any numbers gives, and the limits that all of them keep. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision.decode import TooLarge, Unreadable
from vision.pixel_format import MAX_BANDS, Reading


@dataclass(frozen=True)
class Raster:
    """pixels: H,W,C, as stored.

    nodata: what the file says stands for no data. valid: H,W bool, of readers that know it. inverted: low is bright.
    window: the file's own window is known, or needs none as the bands are colors; of DICOM. dicom: it is one.
    """

    pixels: np.ndarray
    nodata: float | None = None
    valid: np.ndarray | None = None
    inverted: bool = False
    window: bool = False
    dicom: bool = False


def check_size(height: int, width: int, bands: int, most: int) -> None:
    """Raises TooLarge, or Unreadable where there are too many bands to be an image."""
    if height * width > most:
        raise TooLarge(f"{width} by {height} pixels, the limit is {most:,} in all")
    if bands * height * width > most * MAX_BANDS:
        raise TooLarge(f"{bands:,} bands of {width} by {height} pixels")


def frame_of(count: int, reading: Reading) -> int:
    """Which of `count` frames.  Raises Unreadable."""
    if reading.frame is None:
        return count // 2
    if reading.frame >= count:
        raise Unreadable(f"{count} {'frame' if count == 1 else 'frames'}, and data.frame={reading.frame} counts from 0")
    return reading.frame
