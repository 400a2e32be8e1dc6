"""What the numbers in image files mean where they are not 8-bit gray or RGB: which bands, which range, what is no data.

`PixelRequest` is what the data settings ask for, `PixelFormat` what comes of it for one data set. The latter is kept in the
encoder's header, so that evaluation, export and service read images as pretraining did. No torch here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

MAX_BANDS = 32
PERCENTILES = (0.5, 99.5)  # of data.range=percentile
AXES = ("CYX", "YXC")  # of arrays without axes of their own
SETTINGS = ("bands", "range", "nodata", "frame", "axes")  # of data


@dataclass(frozen=True)
class Reading:
    """How a file's array is taken, before any range.

    frame: which of several frames, from 0; None: the middle one. axes: of NPY arrays, one of AXES. alpha: transparency is
    a band and not laid over white. window: DICOM's own window (or VOI LUT) is applied, which gives 0..1.
    """

    frame: int | None = None
    axes: str | None = None
    alpha: bool = False
    window: bool = False


@dataclass(frozen=True)
class PixelRequest:
    """The data settings of these names.  bands: numbers from 1, "all", or None; range: a pair for all bands, a pair a band,
    "percentile", or None. Raises ValueError, one line, with the fix."""

    bands: tuple[int, ...] | str | None = None
    range: tuple[tuple[float, float], ...] | str | None = None
    nodata: float | None = None
    frame: int | None = None
    axes: str | None = None

    @staticmethod
    def of(options: Mapping[str, Any]) -> PixelRequest:
        bands, frame, axes, nodata = (options.get(name) for name in ("bands", "frame", "axes", "nodata"))
        if frame is not None and (type(frame) is not int or frame < 0):
            raise ValueError(f"data.frame={frame}: the number of a frame, from 0; null takes the middle one")
        if axes is not None and axes not in AXES:
            raise ValueError(f"data.axes={axes}: {' or '.join(AXES)}; null where the shape leaves no doubt")
        if nodata is not None and type(nodata) not in (int, float):
            raise ValueError(f"data.nodata={nodata}: the value that stands for no measurement, a number; NaN always does")
        return PixelRequest(_bands(bands), _range(options.get("range")), nodata, frame, axes)

    @property
    def declared(self) -> bool:
        """Whether any of them is set: then every file is read by bands and range."""
        return self != PixelRequest()

    @property
    def reading(self) -> Reading:
        """How files are taken for this request."""
        return Reading(self.frame, self.axes, self.bands is not None)


def _bands(bands: Any) -> tuple[int, ...] | str | None:
    if bands is None or bands == "all":
        return bands
    example = 'a list of numbers from 1, such as [3,2,1], or "all"'
    if type(bands) is int:
        bands = [bands]
    if not isinstance(bands, list | tuple) or not bands or not all(type(band) is int for band in bands):
        raise ValueError(f"data.bands={bands}: {example}")
    if min(bands) < 1:
        raise ValueError(f"data.bands={list(bands)}: bands are numbered from 1; {example}")
    if len(bands) > MAX_BANDS:
        raise ValueError(f"data.bands={list(bands)}: {len(bands)} bands; at most {MAX_BANDS}")
    return tuple(bands)


def _range(given: Any) -> tuple[tuple[float, float], ...] | str | None:
    if given is None or given == "percentile":
        return given
    pairs = [given] if isinstance(given, list | tuple) and not any(isinstance(v, list | tuple) for v in given) else given
    if not isinstance(pairs, list | tuple) or not pairs or not all(map(_is_range, pairs)):
        raise ValueError(f"data.range={given}: [low,high] with low < high, such as [0,4095], or one pair a band; or percentile")
    return tuple((float(low), float(high)) for low, high in pairs)


def _is_range(pair: Any) -> bool:
    numbers = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(v) in (int, float) for v in pair)
    return numbers and all(map(math.isfinite, pair)) and pair[0] < pair[1]


@dataclass(frozen=True)
class PixelFormat:
    """Which values become 0 and 1.  Files → C,H,W float32 in 0..1.

    bands: numbers from 1, in the order of the channels; None: all of the file. low, high, fill: one figure a channel; fill, in
    0..1, stands for pixels without data, and is the mean of the training images. kind: the only type of numbers in the files
    ("uint8"), "" where any is scaled by the range.
    """

    channels: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    fill: tuple[float, ...]
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    kind: str = ""
    reading: Reading = Reading()

    @property
    def json(self) -> dict:
        """What file headers state."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def of(stated: Mapping[str, Any]) -> PixelFormat:
        """From its `json`.  Raises TypeError or KeyError where it is none."""
        tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in stated.items()}
        return PixelFormat(**tuples | {"reading": Reading(**stated["reading"])})

    def refuse_others(self, request: PixelRequest, encoder: str) -> None:
        """Raises ValueError where settings ask for another way of reading than the encoder's."""
        ours = PixelRequest(self.bands, tuple(zip(self.low, self.high, strict=True)), self.nodata, self.reading.frame,
                            self.reading.axes)
        for name in (f.name for f in fields(request)):
            asked, known = getattr(request, name), getattr(ours, name)
            if name == "range" and isinstance(asked, tuple) and len(asked) == 1:
                asked = asked * self.channels
            if asked is None or asked == known or asked == "percentile" or (asked == "all" and known is None):
                continue
            raise ValueError(f"data.{name}={_listed(asked)}: {encoder} was trained with {_listed(known)}, and its "
                             f"header's is used; leave data.{name} out")


def _listed(value: Any) -> str:
    return str(json.loads(json.dumps(value))).replace(" ", "")


def valid_pixels(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """H,W,C → H,W,C bool: finite, and not the value that stands for no data."""
    valid = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, bool)
    if nodata is not None and math.isfinite(nodata):
        valid &= pixels != (pixels.dtype.type(nodata) if pixels.dtype.kind == "f" else nodata)
    return valid
