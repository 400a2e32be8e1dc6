"""Figures of the training images that are no 8-bit gray or RGB ones: number of bands, range, mean and standard deviation.

Images are read one after the other; memory holds some of them and, for percentiles, a sample of pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from vision.decode import Unreadable
from vision.pixel_format import MAX_BANDS, PERCENTILES, PixelFormat, PixelRequest, valid_pixels
from vision.raster import scaled
from vision.raster_file import Raster
from vision.raster_split import RasterFiles
from vision.streamed import CHECK_ALL, first_skipped, threads

PROBED = 32  # files whose number of bands and type are looked at, evenly spread
PIXELS = 2**20  # of a band, at least, that percentiles are taken of, or all there are
FIXED = {"uint8": 255.0, "bool": 1.0}  # types whose range needs no setting


@dataclass(frozen=True)
class Moments:
    """Per channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    constant: tuple[int, ...]  # numbers, from 1, of channels without any difference


def probe(split: RasterFiles, request: PixelRequest) -> PixelFormat:
    """How these files are read, but for a range that is to be measured.  Raises ValueError, one line, with the fix.

    split: the training files, with any format. The number of bands is that which most of `PROBED` files have.
    """
    rasters, skipped = {}, {}
    for index in torch.linspace(0, len(split) - 1, min(PROBED, len(split))).long().tolist():
        try:
            rasters[index] = split.raster(index)
        except Unreadable as error:
            skipped[split.where(index)] = str(error)
    if not rasters:
        raise ValueError(f"data.root={_root(split)} has no readable image; first: {first_skipped(skipped)}")
    count = Counter(raster.pixels.shape[2] for raster in rasters.values()).most_common(1)[0][0]
    bands = request.bands if isinstance(request.bands, tuple) else None
    if bands and max(bands) > count:
        index = next(i for i, raster in rasters.items() if raster.pixels.shape[2] == count)
        raise ValueError(f"data.bands={list(bands)}: there are {count}, as in {split.where(index)}")
    if bands is None and count > MAX_BANDS:
        raise ValueError(f"data.root={_root(split)} has images of {count} bands; data.bands=[…] chooses at most {MAX_BANDS}")
    channels = len(bands) if bands else count
    kinds = {raster.pixels.dtype.name for raster in rasters.values()}
    low, high, kind, window = (0.0,) * channels, (1.0,) * channels, "", False
    if isinstance(request.range, tuple):
        pairs = request.range * channels if len(request.range) == 1 else request.range
        if len(pairs) != channels:
            raise ValueError(f"data.range has {len(pairs)} pairs for {channels} bands: give one pair, or one a band")
        low, high = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    elif request.range is None and all(raster.window for raster in rasters.values()):
        kind, window = "float32", True  # DICOM's own, which gives 0..1
    elif request.range is None and len(kinds) == 1 and (most := FIXED.get(kind := next(iter(kinds)))):
        high = (most,) * channels
    else:
        kind = ""
    fill = (0.0,) * channels
    reading = replace(request.reading, window=window)
    return PixelFormat(channels, low, high, fill, bands, request.nodata, kind, reading)


def needs_percentiles(request: PixelRequest, how: PixelFormat) -> bool:
    """Whether the range is still to be measured."""
    return not isinstance(request.range, tuple) and not how.kind


def percentiles(split: RasterFiles) -> PixelFormat:
    """The split's format with the range of each channel: `PERCENTILES` of its pixels, those without data left out.

    All pixels count where there are at most `PIXELS` a band; of more, the same number of every image, evenly spaced.
    """
    how, samples = split.how, [[] for _ in range(split.how.channels)]
    quota = -(-PIXELS // max(1, min(len(split), CHECK_ALL)))
    for raster in _rasters(split):
        pixels = raster.pixels if how.bands is None else raster.pixels[..., [band - 1 for band in how.bands]]
        valid = valid_pixels(pixels, raster.nodata if how.nodata is None else how.nodata)
        valid = valid if raster.valid is None else valid & raster.valid[..., None]
        for channel, sample in enumerate(samples):
            values = pixels[..., channel][valid[..., channel]]
            sample.append(values[:: max(1, -(-len(values) // quota))])
    limits = [np.percentile(np.concatenate(s), PERCENTILES) if any(map(len, s)) else (0.0, 1.0) for s in samples]
    pairs = [(float(low), float(high) if high > low else float(low) + 1) for low, high in limits]
    return replace(how, low=tuple(p[0] for p in pairs), high=tuple(p[1] for p in pairs))


def moments(split: RasterFiles) -> Moments:
    """Mean and standard deviation of each channel, in one pass, in float64 (Chan et al. 1983).

    Pixels without data are left out. A channel without any difference has standard deviation 1, so that it stays 0 once it is
    normalized.
    """
    channels = split.how.channels
    total, mean, squares = (np.zeros(channels) for _ in range(3))
    for raster in _rasters(split):
        x, valid = scaled(raster, split.how)
        count = valid.sum((1, 2))
        x = x.astype(np.float64)
        own = np.where(valid, x, 0).sum((1, 2)) / count.clip(1)
        spread = np.where(valid, (x - own[:, None, None]) ** 2, 0).sum((1, 2))
        both = (total + count).clip(1)
        squares += spread + (own - mean) ** 2 * total * count / both
        mean += (own - mean) * count / both
        total += count
    std = np.sqrt(squares / total.clip(1))
    constant = std < 1e-6
    return Moments(
        tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in np.where(constant, 1, std).tolist()),
        tuple((constant.nonzero()[0] + 1).tolist()),
    )


def _rasters(split: RasterFiles) -> Iterator[Raster]:
    """Every readable image of the right bands; of more than CHECK_ALL, that many, evenly spaced."""
    indices = torch.linspace(0, len(split) - 1, min(CHECK_ALL, len(split))).long().tolist()

    def read(index: int) -> Raster | None:
        try:
            raster = split.raster(index)
            scaled(raster, split.how)
            return raster
        except Unreadable:
            return None

    with ThreadPoolExecutor(threads()) as pool:
        for start in range(0, len(indices), 4 * threads()):
            yield from filter(None, pool.map(read, indices[start : start + 4 * threads()]))


def _root(split: RasterFiles) -> str:
    return split.root.decode("utf-8", "replace")
