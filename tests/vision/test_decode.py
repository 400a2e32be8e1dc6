"""One file → an image: which pixels real files of all kinds become, and what is refused with which words."""

import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from broken_files import broken, encoded, png_header
from PIL import Image, PngImagePlugin

from vision import decode as module
from vision.decode import Unreadable, decode

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
UPRIGHT = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)  # H,W,C


def pixels(file: io.BytesIO, **options) -> np.ndarray:
    return np.asarray(decode(file, **options)).astype(int)


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
])
def test_lossless_formats_give_their_pixels(kind, options):
    np.testing.assert_array_equal(pixels(encoded(UPRIGHT, kind, **options)), UPRIGHT)
    grey = decode(encoded(UPRIGHT, kind, **options), mode="L")
    assert grey.mode == "L"
    luma = UPRIGHT @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(np.asarray(grey), luma, atol=1)


def test_jpeg_and_gif_give_nearly_their_pixels():
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    np.testing.assert_allclose(pixels(encoded(smooth, "JPEG", quality=95))[..., 0], smooth, atol=4)
    np.testing.assert_array_equal(pixels(encoded(smooth, "GIF"))[..., 1], smooth)  # 256 greys: exact


STORED = {  # EXIF 2.3, tag 0x0112: where the stored row 0 and column 0 lie in the upright picture
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(kind, orientation):
    upright = np.kron(UPRIGHT[:2, :3], np.ones((16, 16, 1), np.uint8))  # 16 × 16 blocks: JPEG keeps their middles
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    stored = np.ascontiguousarray(STORED[orientation](upright))
    got = pixels(encoded(stored, kind, exif=exif, **options))
    assert got.shape == upright.shape
    np.testing.assert_allclose(got, upright, atol=4 if kind == "JPEG" else 0)


def test_broken_exif_is_no_reason_to_lose_the_picture_nor_to_speak(tmp_path):
    """In a process of its own: pytest has warning filters of its own."""
    file = encoded(UPRIGHT, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    (tmp_path / "x.png").write_bytes(file.getvalue())
    program = ("import sys; from vision.decode import decode; "
               "sys.stdout.buffer.write(decode(open(sys.argv[1], 'rb')).tobytes())")
    done = subprocess.run([sys.executable, "-W", "always::UserWarning", "-c", program, tmp_path / "x.png"], cwd=ROOT,
                          capture_output=True, check=True)
    assert done.stdout == UPRIGHT.tobytes()
    assert done.stderr == b""


@pytest.mark.filterwarnings("error")
def test_transparency_is_laid_over_white():
    rgba = np.dstack((UPRIGHT, RNG.integers(0, 256, UPRIGHT.shape[:2], dtype=np.uint8)))
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(pixels(encoded(rgba)), rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    la = rgba[..., [0, 3]]
    expected = la[..., 0] * alpha[..., 0] + 255 * (1 - alpha[..., 0])
    np.testing.assert_allclose(pixels(encoded(Image.fromarray(la, "LA")))[..., 2], expected, atol=1)

    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    opaque = pixels(encoded(palette))
    np.testing.assert_array_equal(opaque, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    for kind, transparent in (("PNG", 1), ("GIF", 1), ("PNG", b"\xff\x00\xff")):
        holed = pixels(encoded(palette, kind, transparency=transparent))
        np.testing.assert_array_equal(holed, [[[10, 20, 30], [255] * 3, [70, 80, 90]]])
    keyed = pixels(encoded(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), transparency=(4, 5, 6)))
    np.testing.assert_array_equal(keyed, [[[1, 2, 3], [255, 255, 255]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = np.array([[0, 128, 129, 255, 256, 257], [1000, 32767, 32768, 40000, 65407, 65535]], np.uint16)
    expected = np.rint(deep / 257)  # 65535 / 255 = 257
    assert expected.max() == 255
    assert expected[0, 3] == 1
    for channel in pixels(encoded(deep, kind)).transpose(2, 0, 1):
        np.testing.assert_array_equal(channel, expected)
    np.testing.assert_array_equal(pixels(encoded(deep, kind), mode="L"), expected)


@pytest.mark.parametrize(("values", "expected"), [
    (np.array([[0, 65535, 257 * 99]], np.int32), [0, 255, 99]),  # fits 16 bits: the same scale as there
    (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),  # its own range: Hounsfield units, heights
    (np.array([[0, 2_000_000, 1_200_000]], np.int32), [0, 255, 153]),
    (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
    (np.array([[0, 0.1, 0.2]], np.float32), [0, 26, 51]),
    (np.array([[0, 99.6, 200]], np.float32), [0, 100, 200]),
    (np.array([[-1, 0, 3]], np.float32), [0, 64, 255]),
    (np.array([[np.nan, np.inf, 0.2]], np.float32), [0, 255, 51]),
    (np.array([[7, 7, 7]], np.float32) * -1, [0, 0, 0]),
])
def test_deep_grey_of_other_ranges(values, expected):
    np.testing.assert_array_equal(pixels(encoded(values, "TIFF"), mode="L")[0], expected)


def test_one_bit_cmyk_and_first_frame():
    bits = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(bits)), mode="L"), bits * 255)
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        np.testing.assert_allclose(pixels(encoded(cyan, kind))[8, 8], [0, 255, 255], atol=3)
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        animated = encoded(frames[0], kind, save_all=True, append_images=frames[1:],
                           **({"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(pixels(animated), np.asarray(frames[0]), err_msg=kind)


def test_draft_keeps_the_short_side_and_the_picture():
    smooth = np.add.outer(np.arange(300) // 4, np.arange(400) // 4).astype(np.uint8)
    large = encoded(np.dstack([smooth] * 3), "JPEG", quality=95).getvalue()
    sizes = {least: decode(io.BytesIO(large), least).size for least in (None, 1, 37, 38, 75, 76, 150, 151, 300, 999)}
    assert sizes == {None: (400, 300), 1: (50, 38), 37: (50, 38), 38: (100, 75), 75: (100, 75), 76: (200, 150),
                     150: (200, 150), 151: (400, 300), 300: (400, 300), 999: (400, 300)}
    half = pixels(io.BytesIO(large), at_least=150, mode="L")
    np.testing.assert_allclose(half, smooth.reshape(150, 2, 200, 2).mean((1, 3)), atol=4)
    assert decode(encoded(smooth), 10).size == (400, 300)  # only JPEG can


@pytest.mark.parametrize("name", broken())
@pytest.mark.filterwarnings("error")
def test_broken_files_are_unreadable_for_a_short_reason(name):
    with pytest.raises(Unreadable) as caught:
        decode(io.BytesIO(broken()[name]))
    why = str(caught.value)
    assert why
    assert len(why) <= 100
    assert "\n" not in why
    reasons = {"empty": "empty file", "text": "not an image", "page": "not an image", "huge": "30000 by 30000 pixels"}
    assert reasons.get(name.partition(".")[0], "") in why


@pytest.mark.filterwarnings("error")
def test_an_image_at_the_pixel_limit_is_readable(monkeypatch):
    assert module.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(module, "MAX_PIXELS", 240)
    assert decode(encoded(UPRIGHT)).size == (20, 12)
    monkeypatch.setattr(module, "MAX_PIXELS", 239)
    with pytest.raises(Unreadable, match="20 by 12 pixels, the limit is 239"):
        decode(encoded(UPRIGHT))


# ------------------------------------------------------------------------------------------------- texts, bands, new kinds


def texts(*added: tuple[str, str, bool], international: bool = False) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, text, packed in added:
        (info.add_itxt if international else info.add_text)(key, text, zip=packed)
    return info


LARGE = "x" * 3_000_000
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'


@pytest.mark.parametrize("options", [
    {"pnginfo": texts(("workflow", LARGE, True))}, {"pnginfo": texts(("parameters", LARGE, True), international=True)},
    {"icc_profile": bytes(2_000_000)}, {"pnginfo": texts(*((f"k{i}", "x" * 900_000, False) for i in range(80)))},
    {"pnginfo": texts(("XML:com.adobe.xmp", LARGE, True), international=True)},
])
def test_a_png_is_used_whatever_its_texts_and_profile(options):
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    np.testing.assert_array_equal(pixels(encoded(UPRIGHT, **options)), UPRIGHT)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_a_png_with_a_large_text_still_stands_upright():
    both = texts(("workflow", LARGE, True), ("XML:com.adobe.xmp", XMP, False), international=True)
    assert pixels(encoded(UPRIGHT, pnginfo=both)).shape == (20, 12, 3)  # stored 12 high: it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(encoded(UPRIGHT, pnginfo=texts(("workflow", LARGE, True)), exif=exif)).shape == (20, 12, 3)


def test_a_bomb_of_text_costs_no_memory():
    bomb = texts(*((f"k{i}", "x" * 50_000_000, True) for i in range(4)))
    file = encoded(UPRIGHT, pnginfo=bomb)
    del bomb
    tracemalloc.start()
    decode(file)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # of 200 MB when unpacked
    tracemalloc.stop()


def test_a_png_cut_within_its_large_text_is_unreadable():
    whole = encoded(UPRIGHT, pnginfo=texts(*((f"k{i}", "x" * 900_000, False) for i in range(80)))).getvalue()
    with pytest.raises(Unreadable):
        decode(io.BytesIO(whole[: len(whole) - 1000]))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("shape", "options", "bands"), [
    ((9, 8, 5), {"photometric": "rgb"}, 5), ((5, 9, 8), {"photometric": "rgb", "planarconfig": "separate"}, 5),
    ((5, 9, 8), {"photometric": "minisblack", "planarconfig": "separate"}, 5),
    ((9, 8, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, 4),
    ((4, 9, 8), {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unspecified"]}, 4),
    ((9, 8, 6), {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified", "unspecified"]}, 6),
    ((9, 8, 2), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unspecified"]}, 2),
    ((9, 8, 5), {"photometric": "separated", "extrasamples": ["unspecified"]}, 5),
    ((9, 8, 4), {"photometric": "separated", "extratags": [(332, 3, 1, 2, True)]}, 4),  # InkSet: not CMYK
])
def test_further_bands_are_never_dropped_silently(shape, options, bands, big):
    file = io.BytesIO()
    tifffile.imwrite(file, RNG.integers(0, 256, shape, dtype=np.uint8), bigtiff=big, **options)
    file.seek(0)
    with pytest.raises(Unreadable, match=f"^{bands} bands; only gray, RGB and CMYK"):
        decode(file)


def test_tiffs_with_alpha_or_four_inks_are_used_as_before():
    for kind, shape, options in (("RGBA", (9, 8, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
                                 ("LA", (9, 8, 2), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
                                 ("CMYK", (9, 8, 4), {"photometric": "separated"})):
        stored, file = RNG.integers(0, 256, shape, dtype=np.uint8), io.BytesIO()
        tifffile.imwrite(file, stored, **options)
        file.seek(0)
        image = Image.fromarray(stored, kind)
        if kind != "CMYK":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        np.testing.assert_array_equal(pixels(file), np.asarray(image.convert("RGB")), err_msg=kind)


@pytest.mark.skipif(b".avif" not in module.SUFFIXES, reason="Pillow without AVIF")
def test_avif_is_read():
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(np.dstack([smooth] * 3), "AVIF", quality=95, exif=exif)
    np.testing.assert_allclose(pixels(file)[..., 1], smooth[::-1].T, atol=6)  # orientation 6: the stored left is the top


@pytest.mark.skipif(b".heic" not in module.SUFFIXES, reason="the package pillow-heif is not installed")
def test_heic_is_read():
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    try:
        file = encoded(np.dstack([smooth] * 3), "HEIF", quality=95)
    except Exception as error:  # a pillow-heif without an encoder raises its own
        pytest.skip(f"pillow-heif cannot write here: {error}")
    np.testing.assert_allclose(pixels(file)[..., 1], smooth, atol=6)


def test_kinds_that_need_a_package_say_so(monkeypatch):
    heic, avif = (b"\0\0\0\x18ftyp" + brand + bytes(99) for brand in (b"heic", b"avif"))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(module.NoImage, match="HEIC, which needs the package pillow-heif"):
        decode(io.BytesIO(heic))
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(module.NoImage, match="AVIF, which needs Pillow"):
        decode(io.BytesIO(avif))


def test_nothing_of_pillow_was_turned_off():
    """Other code in the process keeps Pillow's guards."""
    assert PngImagePlugin.MAX_TEXT_MEMORY
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(png_header(30_000, 30_000)))
