"""One file → an upright 8-bit image, or the reason why not.

Files come from anywhere: any size, depth or mode, transparent, animated, turned by EXIF, broken or no image at all.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vision import png
from vision.tiff_compression import unread_by_pillow

SUFFIXES = frozenset(b".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")  # the last two where they are installed
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_NEEDED = {*FORMATS[:7]}
if importlib.util.find_spec("PIL._avif"):  # Pillow 11.3 and later
    SUFFIXES |= {b".avif"}
    _NEEDED |= {"AVIF"}
try:
    import pillow_heif

    pillow_heif.register_heif_opener()
    SUFFIXES |= {suffix.encode() for suffix in HEIC_SUFFIXES}
except ImportError:  # an optional package
    pass
MAX_PIXELS = 89_478_485  # Pillow's own line, 256 MiB of 24-bit pixels: beyond it a file is unreadable
_TURN = Image.Transpose
TURNS = dict(enumerate((  # EXIF orientation 2 … 8 → what turns it upright
    _TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM, _TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE,
    _TURN.ROTATE_90), start=2))

# A good picture with broken EXIF is used; Pillow's warning of it names no file, so it is of no use. Filtered here,
# not around the call: `warnings.catch_warnings` is the whole process's, and files are decoded in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


class Unreadable(ValueError):
    """This one file cannot be used; the text is a short reason without its path."""


class NoImage(Unreadable):
    """Of no format that is read here."""


class TooLarge(Unreadable):
    """More pixels than are taken."""


def decode(file: BinaryIO, at_least: int | None = None, mode: str = "RGB", most: int | None = None) -> Image.Image:
    """The first frame, upright, 8 bits a channel, as `mode` "RGB" or "L".

    Transparency is laid over white; deep gray is scaled to 0..255 by its range (`_eight_bits`); a TIFF with further bands
    is unreadable. PNG texts and color profiles of any size are allowed. With `at_least` a JPEG
    may come out smaller, its short side still ≥ at_least, at a fraction of the time and memory (libjpeg's DCT scaling).
    The suffix does not matter, the content does.  most: pixels beyond which it is not decoded; None: `MAX_PIXELS`.  Raises
    Unreadable.
    """
    try:
        try:
            return _decode(file, at_least, mode, most)
        except ValueError as error:
            if not png.is_text_limit(error):
                raise
        try:
            return _decode(png.without_text(file, keep_orientation=True), at_least, mode, most)
        except ValueError as error:
            if not png.is_text_limit(error):
                raise
        return _decode(png.without_text(file, keep_orientation=False), at_least, mode, most)
    except Unreadable:
        raise
    except Exception as error:  # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, KeyError …
        raise Unreadable(unread_by_pillow(file) or reason(error)) from error


def _decode(file: BinaryIO, at_least: int | None, mode: str, most: int | None) -> Image.Image:
    image = opened(file, most)
    image.draft(mode, (at_least, at_least) if at_least else None)
    image.load()
    return eight_bit(image, mode)


def opened(file: BinaryIO, most: int | None = None) -> Image.Image:
    """`identify`, of at most so many pixels (None: `MAX_PIXELS`).  Raises TooLarge."""
    image = identify(file)
    width, height = image.size
    most = MAX_PIXELS if most is None else most
    if width * height > most:
        raise TooLarge(f"{width} by {height} pixels, the limit is {most:,} in all")
    return image


def eight_bit(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """An opened image as `decode` returns it: upright, 8 bits a channel, as `mode`.  Raises Unreadable."""
    orientation = orientation_of(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(mode)
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def identify(file: BinaryIO) -> Image.Image:
    """`Image.open` without its warning about many pixels, which names no file, and without formats never promised."""
    prefix = file.read(16)
    if not prefix:
        raise Unreadable("empty file")
    if not Image.OPEN.keys() >= _NEEDED:
        Image.init()
    failure = None
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts(prefix) is not True:  # a text instead of True: known, but not in this build of Pillow
            continue
        file.seek(0)
        try:
            image = factory(file, "")
        except Exception as error:
            failure = error  # of AVIF and HEIF, the first 16 bytes may be the same
            if name == "TIFF":
                check_bands(_tags(file))
            continue
        if name == "TIFF":
            check_bands(image.tag_v2)
        return image
    brand = prefix[8:12] if prefix[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1") and "HEIF" not in Image.OPEN:
        raise NoImage("HEIC, which needs the package pillow-heif")
    if brand in (b"avif", b"avis") and failure is None:
        raise NoImage("AVIF, which needs Pillow 11.3 or later")
    raise failure or NoImage("not an image, or of an unknown format")


_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # TIFF 6.0: PhotometricInterpretation → bands of its colors


def check_bands(tags: ImageFileDirectory_v2 | dict) -> None:
    """Raises Unreadable where a TIFF has bands beside gray, RGB or CMYK and one of alpha: Pillow would drop them silently."""
    photometric, samples, extra = tags.get(262, 0), tags.get(277, 1), tuple(tags.get(338, ()))
    beyond = samples - _BANDS.get(photometric, samples)
    alpha = beyond == 1 and extra in ((), (1,), (2,), (999,))  # associated, unassociated; old writers': not stated, Corel's
    inks = photometric == 5 and tags.get(332, 1) != 1  # InkSet: four inks that are not cyan, magenta, yellow and black
    if inks or (beyond > 0 and not alpha):
        raise Unreadable(f"{samples} bands; only gray, RGB and CMYK are read, with or without alpha")


def _tags(file: BinaryIO) -> ImageFileDirectory_v2 | dict:
    """Of a TIFF that Pillow does not open; none where even they cannot be read."""
    try:
        file.seek(0)
        head = file.read(8)
        tags = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))  # 43: BigTIFF
        file.seek(tags.next)
        tags.load(file)
        return tags
    except Exception:  # whatever half a file makes Pillow raise
        return {}


def orientation_of(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a good picture with broken EXIF is still a good picture
        return 1


def _eight_bits(gray: np.ndarray) -> np.ndarray:
    """H,W of 16-bit, 32-bit or float gray → H,W uint8, scaled by range and never clipped.

    The range is the type's where the values fit it (integers: 0..65535; floats: 0..1, else 0..255), so that brightness
    means the same in every image of a set; otherwise the image's own least to greatest finite value.
    """
    finite = gray[np.isfinite(gray)]
    if not finite.size:
        raise Unreadable("no finite pixel")
    low, high = float(finite.min()), float(finite.max())
    for usual in (65535.0,) if gray.dtype.kind in "iu" else (1.0, 255.0):
        if low >= 0 and high <= usual:
            low, high = 0.0, usual
            break
    scaled = (gray.astype(np.float32) - low) * (255 / max(high - low, 1e-30))
    return np.rint(np.clip(np.nan_to_num(scaled, posinf=255, neginf=0), 0, 255)).astype(np.uint8)


def reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [""])[0][:100] or type(error).__name__
