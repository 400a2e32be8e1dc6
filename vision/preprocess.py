"""What an image goes through before a frozen encoder sees it. One definition, for evaluation, export and serving.

    decode → upright → short side to S and the center square → uint8 C,S,S → scaled to [0, 1] → normalized per channel

vision/geometry.py has rectangles, and squashed or letterboxed images instead of cropped ones. `vision.streamed` makes the
pixels of evaluation with it, `deploy.model` those of an upload; an exported graph that takes images of any size repeats it
(deploy/resize_graph.py). Files that are no 8-bit gray or RGB ones are read by `pixels` instead, and are float32 in 0..1 from
then on (vision/raster.py). Data sets that lie in memory are square already: `Images.resized` is their resize, by the
same filter in floating point, which differs by one gray level at most. No torch here.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from core import image_size
from core.image_size import Size
from vision.decode import decode, eight_bit
from vision.geometry import CROP, FITS, LETTERBOX, SQUASH, Geometry
from vision.pixel_format import PixelFormat
from vision.raster import read_pixels, resize_bands

DRAFT = 2  # a JPEG's own downscaling stops at this many times the final size, so that it shows little in the result
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision rounds it
FIXED = {"resize": "shortest side", "crop": "center", "interpolation": "bilinear", "antialias": True, "range": [0, 1]}
STATED = {  # what files say of others than cropped squares, so that versions that do not know them refuse the file
    CROP: FIXED | {"resize": "cover"},
    SQUASH: FIXED | {"resize": "both sides", "crop": "none"},
    LETTERBOX: FIXED | {"resize": "contain", "crop": "none", "pad": "mean"},
}


@dataclass(frozen=True)
class Preprocessing:
    """size: pixels a side, or height and width; mean, std: one figure a channel, of pixels in [0, 1].

    channels: 1 or 3; any where `pixels` says how files are read that are no 8-bit gray or RGB ones. fit: of `Geometry`.
    """

    size: Size
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: PixelFormat | None = None
    fit: str = CROP

    @property
    def geometry(self) -> Geometry:
        return Geometry(*image_size.sides(self.size), self.fit, self.mean if self.fit == LETTERBOX else ())

    @property
    def json(self) -> dict:
        """What file headers and ONNX metadata state."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("pixels", "fit")}
        stated = FIXED if self.geometry.is_center_square else STATED[self.fit] | {"fit": self.fit}
        own = {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()} | stated
        return own if self.pixels is None else own | {"pixels": self.pixels.json}

    @staticmethod
    def of(stated: dict) -> Preprocessing:
        """From its `json`.  Raises ValueError (`check_known`)."""
        check_known(stated)
        pixels = PixelFormat.of(stated["pixels"]) if "pixels" in stated else None
        size, fit = image_size.parse(stated["size"], "preprocessing.size"), stated.get("fit", CROP)
        return Preprocessing(size, stated["channels"], tuple(stated["mean"]), tuple(stated["std"]), pixels, fit)

    def read(self, file: BinaryIO, most: int | None = None) -> np.ndarray:
        """An image file → C,height,width uint8, or float32 in 0..1 by `pixels`.  most: pixels beyond which it is not decoded.

        Raises `decode.Unreadable`.
        """
        if self.pixels is not None:
            return fit_channels(fitted_bands(read_pixels(file, self.pixels, most), self.geometry), self.channels)
        return fit_channels(fitted(decode(file, at_least(self.size), most=most), self.geometry), self.channels)

    def pixels_of(self, image: Image.Image) -> np.ndarray:
        """An opened 8-bit gray or RGB image → C,height,width uint8.  As `read`, but that a JPEG is not decoded smaller."""
        return fit_channels(fitted(eight_bit(image), self.geometry), self.channels)

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 …,C,H,W, or float32 in 0..1 → float32, as an encoder takes it."""
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
    fit = stated.get("fit", CROP)
    if fit not in FITS:
        raise ValueError(f"preprocessing.fit={fit}: this version knows {', '.join(FITS)}; a newer one may read it")
    known = STATED[fit] if "fit" in stated else FIXED
    for name, value in known.items():
        if stated.get(name, value) != value:
            raise ValueError(f"preprocessing.{name}={stated[name]}: this version knows {value}; a newer one may read it")


def at_least(size: Size) -> int:
    """The shorter side, in pixels, below which a JPEG's own downscaling does not go for an input of this size."""
    return DRAFT * max(image_size.sides(size))


def fitted(image: Image.Image, geometry: Geometry) -> np.ndarray:
    """A gray or RGB image → C,height,width uint8.  Of fit="letterbox" with the channels of its `fill`.

    Resized in one step: a 1 × 10,000 strip never becomes 224 × 2,240,000. The box of fit="crop" is that of torchvision's
    Resize(size), CenterCrop(size) for a square; the filter reaches beyond it where there are pixels.
    """
    place = geometry.placement(image.height, image.width)
    pixels = np.asarray(image.resize((place.width, place.height), Image.Resampling.BILINEAR, place.box))
    pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    return geometry.padded(fit_channels(pixels, len(geometry.fill)), place) if geometry.fit == LETTERBOX else pixels


def fitted_bands(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """`fitted` in float32.  C,H,W in 0..1 → C,height,width"""
    place = geometry.placement(*pixels.shape[1:])
    pixels = resize_bands(pixels, place.height, place.width, place.box)
    return geometry.padded(fit_channels(pixels, len(geometry.fill)), place) if geometry.fit == LETTERBOX else pixels


def center_square(image: Image.Image, size: int) -> Image.Image:
    """`fitted` to a square of `size` pixels a side, as an image."""
    box = Geometry(size, size).placement(image.height, image.width).box
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def center_square_bands(pixels: np.ndarray, size: int) -> np.ndarray:
    """`center_square` in float32.  C,H,W in 0..1 → C,size,size"""
    return fitted_bands(pixels, Geometry(size, size))


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
