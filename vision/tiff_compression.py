"""What a TIFF is compressed with, and the way out where that cannot be read here."""

from __future__ import annotations

from typing import BinaryIO

INSTALL = "uv pip install imagecodecs"


def needs_package(compression: str, predictor: int) -> str:
    """The reason of a TIFF that tifffile cannot read without the package imagecodecs."""
    what = compression if predictor == 1 else f"{compression}, predictor {predictor}"
    return f"TIFF compression {what}, which needs the package imagecodecs ({INSTALL})"


def unread_by_pillow(file: BinaryIO) -> str:
    """The reason of a TIFF that Pillow identifies and cannot read: its compression. "" of a file with a usual one, of which
    something else is wrong, and of other files."""
    import tifffile

    try:
        file.seek(0)
        if file.read(2) not in (b"II", b"MM"):
            return ""
        file.seek(0)
        with tifffile.TiffFile(file, name="image.tif", _multifile=False) as tiff:
            compression = tiff.pages.first.compression
            name = getattr(compression, "name", str(compression))
    except Exception:  # a broken file makes tifffile raise nearly anything
        return ""
    if name in ("NONE", "LZW", "PACKBITS", "ADOBE_DEFLATE", "DEFLATE", "JPEG", "OJPEG", "CCITTRLE", "CCITT_T4", "CCITT_T6"):
        return ""
    return f"TIFF compression {name}, which Pillow does not read; with data.range=[0,255] imagecodecs does ({INSTALL})"
