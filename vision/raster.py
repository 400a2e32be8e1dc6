"""One file → its numbers, of any type and number of bands: TIFF, NPY, NPZ, DICOM, 16-bit PNG, and what Pillow reads.

The content decides which reader, not the suffix. Files come from strangers: sizes are checked before pixels are decoded,
nothing is unpickled, and of a header nothing is kept but what the pixels need. No torch here.
"""

from __future__ import annotations

import math
import zipfile
from typing import BinaryIO

import numpy as np
from PIL import Image

from vision import decode
from vision.decode import MAX_PIXELS, Unreadable, reason
from vision.dicom import read_dicom
from vision.pixel_format import MAX_BANDS, PixelFormat, Reading, valid_pixels
from vision.raster_file import Raster, check_size, frame_of
from vision.tiff_compression import needs_package

SUFFIXES = decode.SUFFIXES | {b".npy", b".npz", b".dcm", b".dicom"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, little- and big-endian
_PNG = b"\x89PNG\r\n\x1a\n"
_UPRIGHT = {  # EXIF's orientation → what turns H,W,… upright
    2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
}


def read_raster(file: BinaryIO, reading: Reading, most: int | None = None) -> Raster:
    """A file's array.  most: pixels of one band beyond which it is not decoded.  Raises Unreadable."""
    most = MAX_PIXELS if most is None else most
    try:
        head = file.read(132)
        file.seek(0)
        if not head:
            raise Unreadable("empty file")
        if head[128:] == b"DICM":
            return read_dicom(file, reading, most)
        raster = _reader(head)(file, reading, most)
    except Unreadable:
        raise
    except Exception as error:  # a broken file makes the libraries raise nearly anything
        raise Unreadable(reason(error)) from error
    pixels = raster.pixels
    if pixels.dtype.kind not in "buif":
        raise Unreadable(f"{pixels.dtype} numbers; only whole and real ones are read")
    if not pixels.size:
        raise Unreadable(f"no pixel: {' by '.join(map(str, pixels.shape))}")
    return raster


def _reader(head: bytes):
    if head[:4] in _TIFF:
        return _read_tiff
    if head[:6] == b"\x93NUMPY":
        return lambda file, reading, most: Raster(_bands_last(_read_npy(file, most), reading))
    if head[:4] == b"PK\3\4":
        return _read_npz
    if head[:8] == _PNG and head[24] == 16:
        return _read_deep_png
    return _read_by_pillow


def over_white(pixels: np.ndarray, most: float) -> np.ndarray:
    """H,W,C+1, transparency last → H,W,C.  most: the value of white and of opaque"""
    opaque = pixels[..., -1:].astype(np.float64) / most
    laid = pixels[..., :-1] * opaque + most * (1 - opaque)
    return (np.rint(laid) if pixels.dtype.kind in "bui" else laid).astype(pixels.dtype)


# ---------------------------------------------------------------------------------------------------------------- readers


def _read_tiff(file: BinaryIO, reading: Reading, most: int) -> Raster:
    """The first series, by its axes: Y and X; C and S are bands, and so are pages without a meaning (I, Q); of T, Z and
    others one is taken."""
    import tifffile

    with tifffile.TiffFile(file, name="image.tif", _multifile=False) as tiff:  # of an OME-TIFF no other file is opened
        series = tiff.series[0]
        page, axes, shape = series.keyframe, series.axes, series.shape
        if axes.count("Y") != 1 or axes.count("X") != 1:
            raise Unreadable(f"axes {axes}: no image among them")
        height, width = shape[axes.index("Y")], shape[axes.index("X")]
        check_size(height, width, math.prod(shape) // max(1, height * width), most)
        try:
            array = series.asarray(maxworkers=1)
        except (ValueError, ImportError) as error:
            if "imagecodecs" in str(error) or isinstance(error, ImportError):
                raise Unreadable(needs_package(page.compression.name, page.predictor)) from error
            raise
        several = [axis for axis, n in zip(axes, shape, strict=True) if n > 1 and axis in "CS"]
        bands = "CS" if several or reading.frame is not None else "CSIQ"
        kept = [axis in "YXCS" or (axis in bands and n <= MAX_BANDS) for axis, n in zip(axes, shape, strict=True)]
        array = array[tuple(slice(None) if keep else frame_of(n, reading) for keep, n in zip(kept, shape, strict=True))]
        axes = "".join(axis for axis, keep in zip(axes, kept, strict=True) if keep)
        order = [axes.index("Y"), axes.index("X"), *(i for i, axis in enumerate(axes) if axis not in "YX")]
        array = array.transpose(order).reshape(height, width, -1)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            array = (page.colormap[:, array[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)
        if array.shape[2] in (2, 4) and tuple(page.extrasamples) in ((1,), (2,)) and not reading.alpha:
            array = over_white(array, np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1)
        orientation = page.tags.valueof(274, 1)
        array = _UPRIGHT.get(orientation, np.asarray)(array)
        nodata = float(page.nodata) if 42113 in page.tags else None
        return Raster(array, nodata, inverted=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def _read_npy(file: BinaryIO, most: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    shape, _, dtype = getattr(np.lib.format, f"read_array_header_{1 if version[0] == 1 else 2}_0")(file)
    if dtype.hasobject:
        raise Unreadable("Python objects; only arrays of numbers are read")
    if len(shape) not in (2, 3):
        raise Unreadable(f"an array of shape {shape}; an image is H,W or C,H,W or H,W,C")
    *_, second, third = sorted((1, *shape))
    check_size(second, third, int(np.prod(shape)) // max(second * third, 1), most)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(file: BinaryIO, reading: Reading, most: int) -> Raster:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if len(names) != 1:
            raise Unreadable(f"{len(names)} arrays ({', '.join(name[:-4] for name in names[:3])}); one file holds one image")
        with archive.open(names[0]) as member:
            return Raster(_bands_last(_read_npy(member, most), reading))


def _bands_last(array: np.ndarray, reading: Reading) -> np.ndarray:
    """H,W, C,H,W or H,W,C → H,W,C, in this machine's byte order."""
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    if array.ndim == 2:
        return array[..., None]
    first, last = array.shape[0] <= MAX_BANDS, array.shape[2] <= MAX_BANDS
    if reading.axes is None and first == last:
        raise Unreadable(f"an array of shape {array.shape}: which axis holds the bands? Set data.axes to CYX or YXC")
    return array.transpose(1, 2, 0) if reading.axes == "CYX" or (reading.axes is None and first) else array


def _read_deep_png(file: BinaryIO, reading: Reading, most: int) -> Raster:
    """16 bits a channel, of which Pillow keeps 8 where there is color."""
    import cv2

    data = file.read()
    width, height, kind = int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data[25]
    check_size(height, width, 4, most)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise Unreadable("a broken 16-bit PNG")
    array = array.reshape(height, width, -1)
    if array.shape[2] >= 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    array = {0: array[..., :1], 4: array[..., [0, -1]], 2: array[..., :3]}.get(kind, array)
    return Raster(over_white(array, 65535) if kind in (4, 6) and not reading.alpha else array)


def _read_by_pillow(file: BinaryIO, reading: Reading, most: int) -> Raster:
    """As `vision.decode`, with the bands that the file has."""
    image = decode.identify(file)
    check_size(image.height, image.width, len(image.getbands()), most)
    image.load()
    orientation = decode.orientation_of(image)
    if image.mode == "P" or (image.has_transparency_data and image.mode in ("L", "RGB", "1")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode == "YCbCr":
        image = image.convert("RGB")
    if image.mode in ("RGBA", "LA") and not reading.alpha:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("L" if image.mode == "LA" else "RGB")
    array = np.asarray(image)
    array = array if array.ndim == 3 else array[..., None]
    return Raster(_UPRIGHT.get(orientation, np.asarray)(array))


# ------------------------------------------------------------------------------------------------------------------- scale


def scaled(raster: Raster, how: PixelFormat) -> tuple[np.ndarray, np.ndarray]:
    """(C,H,W float32 in 0..1, C,H,W bool: where there is data; elsewhere the pixels are `fill`).  Raises Unreadable."""
    pixels = raster.pixels
    count = pixels.shape[2]
    if how.bands is None and count != how.channels:
        raise Unreadable(f"{_bands(count)}, where the others have {how.channels}; data.bands chooses bands that all have")
    if how.bands is not None:
        if max(how.bands) > count:
            raise Unreadable(f"{_bands(count)}, and data.bands asks for number {max(how.bands)}")
        pixels = pixels[..., [band - 1 for band in how.bands]]
    if how.kind and pixels.dtype.name != how.kind:
        raise Unreadable(f"{pixels.dtype.name} numbers, where the others are {how.kind}; data.range gives all one scale")
    valid = valid_pixels(pixels, raster.nodata if how.nodata is None else how.nodata)
    if raster.valid is not None:
        valid &= raster.valid[..., None]
    low, high = np.array(how.low), np.array(how.high)
    exact = (pixels.dtype.kind == "f" and pixels.dtype.itemsize <= 4) or pixels.dtype.itemsize <= 2
    x = pixels.astype(np.float32 if exact else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        x = ((x - low.astype(x.dtype)) / (high - low).astype(x.dtype)).clip(0, 1)
    x = 1 - x if raster.inverted else x
    x = np.where(valid, x, np.array(how.fill)).astype(np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1)), valid.transpose(2, 0, 1)


def _bands(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"


def read_pixels(file: BinaryIO, how: PixelFormat, most: int | None = None) -> np.ndarray:
    """An image file → C,H,W float32 in 0..1.  most: as of `read_raster`.  Raises Unreadable."""
    return scaled(read_raster(file, how.reading, most), how)[0]


# ------------------------------------------------------------------------------------------------------------------ resize


def resize_bands(
    pixels: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Antialiased bilinear resize in float32, by Pillow.  C,H,W → C,height,width.

    box: left, top, right, bottom of what becomes the image; the filter reaches beyond it.
    """
    how = (width, height), Image.Resampling.BILINEAR, box
    bands = [np.asarray(Image.fromarray(np.ascontiguousarray(band)).resize(*how)) for band in pixels]
    return np.stack(bands).clip(0, 1)  # rounding may leave [0, 1] by an ulp


def shown(images: np.ndarray) -> np.ndarray:
    """For a picture: …,C,H,W as stored, or in 0..1 → …,1 or 3,H,W uint8: the first three bands, or the first of fewer."""
    count = 3 if images.shape[-3] >= 3 else 1
    images = images[..., :count, :, :]
    return images if images.dtype == np.uint8 else np.rint(images * 255).clip(0, 255).astype(np.uint8)
