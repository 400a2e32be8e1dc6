"""What pretraining reads of a color file is what `decode` gives, by whichever decoder."""
import io

import numpy as np
import pytest
from PIL import Image

from vision import color_image
from vision.color_image import read_color
from vision.decode import Unreadable, decode

SIZES = ((37, 53), (64, 64), (8, 200), (241, 130))  # width, height


def photo(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Smooth, with noise: chroma is subsampled, and rounding shows."""
    rng = np.random.default_rng(size)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(np.asarray(small) // 2 + rng.integers(0, 100, (*size[::-1], 3), np.uint8)).convert(mode)


def jpeg(image: Image.Image, **how) -> bytes:
    body = io.BytesIO()
    image.save(body, "JPEG", **how)
    return body.getvalue()


def turned(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def same(body: bytes, at_least: int | None = None) -> None:
    expected = np.asarray(decode(io.BytesIO(body), at_least))
    np.testing.assert_array_equal(read_color(io.BytesIO(body), at_least).pixels, expected)


@pytest.fixture
def _without_pillow(monkeypatch):
    """Whatever is left to Pillow fails."""
    pytest.importorskip("simplejpeg")
    monkeypatch.setattr(color_image, "decode", lambda *_: pytest.fail("Pillow decoded it"))


@pytest.mark.usefixtures("_without_pillow")
@pytest.mark.parametrize("how", [
    {}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 5}, {"keep_rgb": True},
])  # fmt: skip
@pytest.mark.parametrize("at_least", [None, 4, 16, 30, 60, 1000])
def test_color_jpegs_have_pillows_pixels_at_every_scale(how, at_least):
    for size in SIZES:
        same(jpeg(photo(size), **how), at_least)


@pytest.mark.usefixtures("_without_pillow")
@pytest.mark.parametrize("at_least", [None, 16])
def test_so_have_gray_and_turned_ones(at_least):
    for size in SIZES:
        same(jpeg(photo(size, "L")), at_least)
        for orientation in range(1, 9):
            same(jpeg(photo(size), exif=turned(orientation)), at_least)


@pytest.mark.usefixtures("_without_pillow")
def test_bytes_behind_the_image_do_not_matter():
    same(jpeg(photo((64, 64))) + b"\0" * 100)


def test_what_is_no_plain_jpeg_is_left_to_pillow():
    same(jpeg(photo((37, 53), "CMYK")))
    for name in ("PNG", "BMP", "GIF", "TIFF"):
        body = io.BytesIO()
        photo((37, 53)).save(body, name)
        same(body.getvalue())


@pytest.mark.parametrize("side", [1, 3, 5, 7, 8, 9])
def test_images_of_a_few_pixels_have_pillows_scale(side):
    for at_least in (1, 2, 4, None):
        same(jpeg(photo((side, side + 2))), at_least)


def test_without_the_package_pixels_are_the_same(monkeypatch):
    monkeypatch.setattr(color_image, "simplejpeg", None)
    same(jpeg(photo((37, 53))), 16)


@pytest.mark.parametrize("body", [
    b"", b"\xff\xd8", b"\xff\xd8\xff", b"text", jpeg(photo((64, 64)))[:-400], jpeg(photo((64, 64)))[:200],
])  # fmt: skip
def test_broken_files_are_refused_with_the_reason_that_decode_gives(body):
    with pytest.raises(Unreadable) as expected:
        decode(io.BytesIO(body))
    with pytest.raises(Unreadable) as found:
        read_color(io.BytesIO(body))
    assert str(found.value) == str(expected.value)


def test_damage_within_a_file_counts_as_decode_counts_it():
    """Bytes are flipped all over: either both give the same pixels, or both refuse."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(jpeg(photo((64, 64))), np.uint8)
    refused = 0
    for _ in range(200):
        body = whole.copy()
        body[rng.integers(2, len(body), 3)] = rng.integers(0, 256, 3)
        try:
            expected = np.asarray(decode(io.BytesIO(body.tobytes())))
        except Unreadable:
            refused += 1
            with pytest.raises(Unreadable):
                read_color(io.BytesIO(body.tobytes()))
        else:
            np.testing.assert_array_equal(read_color(io.BytesIO(body.tobytes())).pixels, expected)
    assert 0 < refused < 200
