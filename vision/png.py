"""PNG files whose text or color profile is larger than Pillow reads."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTING = (b"XML:com.adobe.xmp", b"Raw profile type exif")  # keywords of texts that may say which way is up


def is_text_limit(error: Exception) -> bool:
    """Whether Pillow refused a file for the size of its text chunks or color profile (MAX_TEXT_CHUNK, MAX_TEXT_MEMORY)."""
    return isinstance(error, ValueError) and "MAX_TEXT_" in str(error)


def without_text(file: BinaryIO, keep_orientation: bool) -> BinaryIO:
    """The same PNG without texts and color profile, which no pixel depends on. Nothing is decompressed.

    Pillow's limits against decompression bombs are the whole process's, and files are decoded in threads: so the file is
    changed, not the limits. keep_orientation: the texts that may hold EXIF stay.
    """
    file.seek(0)
    kept = io.BytesIO()
    kept.write(file.read(8))  # the signature
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = file.read(length + 4)  # and its checksum
        if kind in _TEXT and not (keep_orientation and content.partition(b"\0")[0] in _ORIENTING):
            continue
        kept.write(head + content)
        if kind == b"IEND":
            break
    kept.seek(0)
    return kept
