"""What an image goes through before a frozen encoder sees it. One definition, for evaluation, export and serving.

    decode → upright → short side to S and the center square → uint8 C,S,S → scaled to [0, 1] → normalized per channel

`vision.streamed` makes the pixels of evaluation with it, `deploy.model` those of an upload; an exported graph that takes
images of any size repeats it (deploy/portable.py). Files that are no 8-bit gray or RGB ones are read by `pixels` instead, and
are float32 in 0..1 from then on (vision/raster.py). Data sets that lie in memory are square already: `Images.resized` is
their resize, by the same filter in floating point, which differs by one gray level at most. No torch here.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from vision.decode import decode
from vision.pixel_format import PixelFormat
from vision.raster import read_pixels, resize_bands

DRAFT = 2  # a JPEG's own downscaling stops at this many times the final size, so that it shows little in the result
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision rounds it
FIXED = {"resize": "shortest side", "crop": "center", "interpolation": "bilinear", "antialias": True, "range": [0, 1]}


@dataclass(frozen=True)
class Preprocessing:
    """size: pixels a side; mean, std: one figure a channel, of pixels in [0, 1].

    channels: 1 or 3; any where `pixels` says how files are read that are no 8-bit gray or RGB ones.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: PixelFormat | None = None

    @property
    def json(self) -> dict:
        """What file headers and ONNX metadata state."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pixels"}
        own = {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()} | FIXED
        return own if self.pixels is None else own | {"pixels": self.pixels.json}

    @staticmethod
    def of(stated: dict) -> Preprocessing:
        """From its `json`.  Raises ValueError (`check_known`)."""
        check_known(stated)
        pixels = PixelFormat.of(stated["pixels"]) if "pixels" in stated else None
        return Preprocessing(stated["size"], stated["channels"], tuple(stated["mean"]), tuple(stated["std"]), pixels)

    def read(self, file: BinaryIO, most: int | None = None) -> np.ndarray:
        """An image file → C,S,S uint8, or float32 in 0..1 by `pixels`.  most: pixels beyond which it is not decoded.

        Raises `decode.Unreadable`.
        """
        if self.pixels is not None:
            return fit_channels(center_square_bands(read_pixels(file, self.pixels, most), self.size), self.channels)
        square = center_square(decode(file, DRAFT * self.size, most=most), self.size)
        return fit_channels(np.asarray(square).transpose(2, 0, 1), self.channels)

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 …,C,S,S, or float32 in 0..1 → float32, as an encoder takes it."""
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        scaled = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        # product and sum are rounded once, as by the fused multiply-add of `pixels.normalize`
        return (scaled * (1 / std).astype(np.float64) - mean / std).astype(np.float32)


def preprocessing_in(path: str | Path) -> Preprocessing | None:
    """What an encoder file states; None where it states nothing, or is none (its reader in vision/artifact.py says so)."""
    try:
        with safe_open(path, "np") as file:
            return Preprocessing.of(json.loads((file.metadata() or {})["nolabel"])["preprocessing"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return None


def check_known(stated: dict) -> None:
    """Raises ValueError where a file states a way of preprocessing that this version does not have; {} is this one."""
    for name, value in FIXED.items():
        if stated.get(name, value) != value:
            raise ValueError(f"preprocessing.{name}={stated[name]}: this version knows {value}; a newer one may read it")


def center_square(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, then the center square, in one step: a 1 × 10,000 strip never becomes 224 × 2,240,000.

    The box is that of torchvision's Resize(size), CenterCrop(size); the filter reaches beyond the box where there are pixels.
    """
    (left, right), (top, bottom) = (center_span(side, min(image.size), size) for side in image.size)
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, right, bottom))


def center_square_bands(pixels: np.ndarray, size: int) -> np.ndarray:
    """`center_square` in float32.  C,H,W in 0..1 → C,size,size"""
    sides = pixels.shape[:0:-1]
    (left, right), (top, bottom) = (center_span(side, min(sides), size) for side in sides)
    return resize_bands(pixels, size, size, (left, top, right, bottom))


def center_span(side: int, shortest: int, size: int) -> tuple[float, float]:
    """Where the square begins and ends along a side, in source pixels.  shortest: the shorter side."""
    scaled = int(size * side / shortest)  # torchvision's rounding, of the side …
    start = round((scaled - size) / 2)  # … and of the crop
    return start * side / scaled, (start + size) * side / scaled


def fit_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """C,H,W with 3 channels → luma where one is wanted; 1 → repeated where three are; else as they are."""
    if channels == len(pixels) or channels not in (1, 3):
        return pixels
    if len(pixels) == 1:
        return pixels.repeat(3, axis=0)
    red, green, blue = (np.float32(weight) * plane for weight, plane in zip(LUMA, pixels.astype(np.float32), strict=True))
    gray = (red + green + blue)[None]
    # as `encoders.fit_channels`, summed in its order
    return gray if pixels.dtype == np.float32 else np.rint(gray).astype(np.uint8)
