"""A DICOM file → its pixels, through the modality LUT and, where asked for, its own window. Its header goes no further.

By pydicom; order as in DICOM PS3.4, N.2: modality LUT, then VOI LUT or window, then MONOCHROME1 is inverted. No torch here.
"""

from __future__ import annotations

import warnings
from typing import BinaryIO

import numpy as np

from vision.decode import Unreadable, reason
from vision.pixel_format import Reading
from vision.raster_file import Raster, check_size, frame_of

warnings.filterwarnings("ignore", module=r"pydicom")  # they name no file, and may quote a patient's header


def read_dicom(file: BinaryIO, reading: Reading, most: int) -> Raster:
    """One frame: gray in the modality's units (CT: HU), or RGB. With `reading.window` in 0..1.  Raises Unreadable."""
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    data = dcmread(file)
    if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
        raise Unreadable("DICOM without pixels")
    check_size(int(data.Rows), int(data.Columns), int(data.SamplesPerPixel), most)
    frame = frame_of(int(data.get("NumberOfFrames") or 1), reading)
    try:
        pixels = pixel_array(data, index=frame)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        name = data.file_meta.TransferSyntaxUID.name
        raise Unreadable(f"DICOM in {name}, which no installed decoder reads: {reason(error)}"[:160]) from error
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    kind, bits = data.PhotometricInterpretation, int(data.BitsStored)
    if bits == 1:
        pixels = pixels.astype(bool)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 3:
        x = (pixels / (2**bits - 1)).astype(np.float32) if reading.window else pixels
        return Raster(x, window=True, dicom=True)
    padding = data.get("PixelPaddingValue")
    valid = None if padding is None else pixels != padding
    x = np.asarray(apply_modality_lut(pixels, data))
    has_window = "VOILUTSequence" in data or ("WindowCenter" in data and "WindowWidth" in data)
    if reading.window:
        if not has_window:
            raise Unreadable("DICOM without a window, where the others have one; data.range gives all one scale")
        x = _windowed(x, data)
    return Raster(x[..., None], valid=valid, inverted=kind == "MONOCHROME1", window=has_window, dicom=True)


def _windowed(x: np.ndarray, data) -> np.ndarray:
    """By the first VOI LUT, or the first window (PS3.3, C.11.2).  H,W → H,W float32 in 0..1"""
    from pydicom.pixels import apply_voi

    if "VOILUTSequence" in data:
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return (apply_voi(x, data, 0) / (2**bits - 1)).astype(np.float32)
    center, width = (float(np.ravel(data[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    function = data.get("VOILUTFunction") or "LINEAR"
    if width < 1 if function == "LINEAR" else width <= 0:
        raise Unreadable(f"DICOM with a window {width:g} wide")
    x = x.astype(np.float64)
    if function == "SIGMOID":
        return (1 / (1 + np.exp(-4 * (x - center) / width))).astype(np.float32)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
        if width == 0:
            return (x > center).astype(np.float32)
    return ((x - center) / width + 0.5).clip(0, 1).astype(np.float32)
