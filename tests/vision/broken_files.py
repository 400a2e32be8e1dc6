"""Files that are no image, for tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind="PNG", **options) -> io.BytesIO:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">II", zlib.crc32(chunk), 9) + b"IDAT"


def broken() -> dict[str, bytes]:
    """Ten kinds of file that are no image, whatever they are called."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    png, jpeg, webp, tiff, gif = (encoded(noise, kind).getvalue() for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"))
    flipped = bytearray(png)
    flipped[60] ^= 0xFF  # in the compressed data: a checksum fails
    return {
        "empty.png": b"", "text.jpg": b"this is not an image\n", "half.png": png[: len(png) // 2],
        "half.jpeg": jpeg[: len(jpeg) // 2], "half.webp": webp[: len(webp) // 2], "half.tif": tiff[: len(tiff) // 2],
        "half.gif": gif[:900], "flipped.PNG": bytes(flipped), "page.bmp": b"<html><body>404</body></html>",
        "huge.png": png_header(30_000, 30_000),
    }
