"""Splits of image files that are no 8-bit gray or RGB ones: float32 in 0..1, any number of bands."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.image_size import Size
from vision.decode import Unreadable, reason
from vision.geometry import Geometry
from vision.pixel_format import PixelFormat
from vision.preprocess import fitted_bands
from vision.raster import read_raster, resize_bands, scaled
from vision.raster_file import Raster
from vision.streamed import Files, threads


@dataclass(frozen=True)
class BandImage:
    """pixels: C,H,W float32 in 0..1; width and height as of a Pillow image."""

    pixels: np.ndarray

    @property
    def height(self) -> int:
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        return self.pixels.shape[2]

    def crop_resize(self, box: list[int], out: Tensor) -> None:
        """torchvision's resized_crop with antialiasing.  box: top, left, height, width; out: C,h,w float32"""
        top, left, height, width = box
        crop = self.pixels[:, top : top + height, left : left + width]
        out.copy_(torch.from_numpy(resize_bands(crop, *out.shape[1:])))


class RasterFiles(Files):
    """Files whose numbers `how` turns into 0..1."""

    dtype = torch.float32
    how: PixelFormat

    @staticmethod
    def of(files: Files, how: PixelFormat) -> RasterFiles:
        """The same files, read so."""
        split = RasterFiles.__new__(RasterFiles)
        split.__dict__.update(copy.copy(files).__dict__, how=how, skipped={})
        return split

    @property
    def channels(self) -> int:
        return self.how.channels

    def raster(self, index: int) -> Raster:
        """Image `index` as its file stores it.  Raises Unreadable; IndexError past the end."""
        try:
            with self._open(int(self.rows[index])) as file:
                return read_raster(file, self.how.reading)
        except OSError as error:
            raise Unreadable(reason(error)) from error

    def read(self, index: int, at_least: int | None = None, mode: str = "RGB") -> BandImage:
        """Image `index`, at its full size: `at_least` and `mode` are other readers'.  Raises Unreadable."""
        return BandImage(scaled(self.raster(index), self.how)[0])

    def croppable(self, index: int, at_least: int | None = None) -> tuple[BandImage, int]:
        """The image as `readable` gives it."""
        return self.readable(index, at_least)

    def resized(self, indices: Tensor, size: Size | Geometry) -> Tensor:
        """→ B,C,height,width float32 in 0..1: what evaluation sees (vision/preprocess.py) of the file that `readable` gives.

        size: as of `Streamed.resized`.
        """
        geometry = Geometry.of(size)

        def one(index: int) -> np.ndarray:
            return fitted_bands(self.readable(index)[0].pixels, geometry)

        with ThreadPoolExecutor(1 if torch.utils.data.get_worker_info() else threads()) as pool:
            images = list(pool.map(one, indices.tolist()))
        return torch.from_numpy(np.stack(images)) if images else torch.empty(0, self.channels, geometry.height, geometry.width)

    def _identify(self, digest) -> None:
        """How the numbers are read, too: cached features are of them."""
        digest.update(repr(self.how).encode())
        super()._identify(digest)
