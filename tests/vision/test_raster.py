"""Readers of files with any numbers, against the libraries that wrote them and pydicom's own examples."""
import importlib.util
import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from torchvision.transforms.functional import resized_crop

from vision.decode import TooLarge, Unreadable, decode
from vision.pixel_format import PixelFormat, PixelRequest, Reading
from vision.preprocess import center_square_bands
from vision.raster import read_pixels, read_raster, resize_bands, scaled, shown
from vision.raster_file import Raster

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 4096, (5, 12, 20), dtype=np.uint16)  # C,H,W
PLAIN, ALPHA = Reading(), Reading(alpha=True)


def example(name: str) -> str:
    return get_testdata_file(name, download=False)


def raster(data: bytes | io.BytesIO, reading: Reading = PLAIN) -> Raster:
    return read_raster(io.BytesIO(data) if isinstance(data, bytes) else data, reading)


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def dicom(name: str, reading: Reading = PLAIN) -> Raster:
    with open(example(name), "rb") as file:
        return read_raster(file, reading)


# ------------------------------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiff_planar_chunky_and_pages(compression, byteorder, dtype):
    array = (IMAGE.astype(np.float32) / 16).astype(dtype)
    how = {"compression": compression, "byteorder": byteorder}
    chunky = np.ascontiguousarray(array.transpose(1, 2, 0))
    files = [
        tiff(array, photometric="minisblack", planarconfig="separate", **how),
        tiff(chunky, photometric="minisblack", planarconfig="contig", **how),
        tiff(array, photometric="minisblack", **how),  # pages
        tiff(array, bigtiff=True, tile=(16, 16), photometric="minisblack", planarconfig="separate", **how),
    ]
    for data in files:
        read = raster(data).pixels
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, chunky)


def test_tiff_bands_are_found_by_the_axes_and_not_by_size():
    small = RNG.integers(0, 9, (40, 3, 4), dtype=np.uint8)  # 40 bands of 3 by 4 pixels
    data = tiff(small, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    np.testing.assert_array_equal(raster(data).pixels, small.transpose(1, 2, 0))


def test_tiff_of_a_stack_gives_the_middle_or_the_frame_that_is_set():
    array = RNG.integers(0, 999, (2, 5, 3, 8, 9), dtype=np.uint16)
    data = tiff(array, ome=True, metadata={"axes": "TZCYX"}, photometric="minisblack")
    np.testing.assert_array_equal(raster(data).pixels, array[1, 2].transpose(1, 2, 0))
    np.testing.assert_array_equal(raster(data, Reading(frame=1)).pixels, array[1, 1].transpose(1, 2, 0))
    with pytest.raises(Unreadable, match=r"2 frames, and data\.frame=4"):
        raster(data, Reading(frame=4))
    slices = tiff(array[0, :, 0], imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(raster(slices).pixels[..., 0], array[0, 2, 0])
    pages = tiff(array[0, :, 0], photometric="minisblack")
    np.testing.assert_array_equal(raster(pages, Reading(frame=4)).pixels[..., 0], array[0, 4, 0])


def test_tiff_of_one_bit_palette_alpha_and_orientation():
    bits = RNG.integers(0, 2, (9, 13)).astype(bool)
    for photometric in ("minisblack", "miniswhite"):
        data = tiff(bits, photometric=photometric)
        file = raster(data)
        x = scaled(file, PixelFormat(1, (0.0,), (1.0,), (0.0,)))[0][0]
        np.testing.assert_array_equal(x == 1, bits if photometric == "minisblack" else ~bits)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 0, x > 0)
    buffer = io.BytesIO()
    colored = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).quantize(16)
    colored.save(buffer, "TIFF")
    np.testing.assert_array_equal(raster(buffer.getvalue()).pixels, np.asarray(colored.convert("RGB")))
    rgba = np.full((8, 9, 4), 65535, np.uint16)
    rgba[..., :3], rgba[0, 0] = 1000, (7, 8, 9, 0)
    data = tiff(rgba, photometric="rgb")
    np.testing.assert_array_equal(raster(data, ALPHA).pixels, rgba)
    white = raster(data).pixels
    assert white.shape == (8, 9, 3)
    assert (white[0, 0] == 65535).all()
    assert (white[1:] == 1000).all()
    turned = tiff(IMAGE[0], photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
    upright = Image.fromarray(IMAGE[0].astype(np.int32)).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(raster(turned).pixels[..., 0], np.asarray(upright))


COMPRESSIONS = {  # as tifffile writes them
    "LZW": {"compression": "lzw"},
    "LZW, predictor 2": {"compression": "lzw", "predictor": 2},
    "deflate": {"compression": "zlib", "predictor": 2},
    "ZSTD": {"compression": "zstd"},
    "PACKBITS": {"compression": "packbits"},
    "JPEG": {"compression": "jpeg", "compressionargs": {"level": 95}},
}


@pytest.mark.skipif(not importlib.util.find_spec("imagecodecs"), reason="the package imagecodecs is not installed")
@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_compressed_tiffs_are_read_with_imagecodecs(name, tile):
    how = COMPRESSIONS[name] | ({} if tile is None else {"tile": tile})
    if name == "JPEG":
        smooth = np.dstack([np.add.outer(np.arange(40), 2 * np.arange(60))] * 3).astype(np.uint8)
        data = tiff(smooth, photometric="rgb", **how)
        np.testing.assert_allclose(raster(data).pixels.astype(int), smooth, atol=6)  # lossy
        np.testing.assert_allclose(raster(data).pixels.astype(int), tifffile.imread(io.BytesIO(data)).astype(int), atol=2)
        return
    for array in (IMAGE, IMAGE.astype(np.float32) if "2" not in name and name != "deflate" else IMAGE.astype(np.int16)):
        data = tiff(array, photometric="minisblack", planarconfig="separate", **how)
        np.testing.assert_array_equal(raster(data).pixels, array.transpose(1, 2, 0))


def test_tiffs_without_their_decoder_say_which_package(tmp_path):
    """In a process that has no imagecodecs, as files on disk."""
    if importlib.util.find_spec("imagecodecs"):
        for name in ("LZW", "LZW, predictor 2", "PACKBITS", "ZSTD"):
            (tmp_path / name).write_bytes(tiff(IMAGE, photometric="minisblack", **COMPRESSIONS[name]))
    else:
        Image.fromarray(IMAGE[0].astype(np.uint8)).save(tmp_path / "LZW", "TIFF", compression="tiff_lzw")
    code = """if 1:
        import sys, pathlib
        sys.modules["imagecodecs"] = None
        from vision.decode import Unreadable
        from vision.pixel_format import Reading
        from vision.raster import read_raster
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                with open(path, "rb") as file:
                    read_raster(file, Reading())
                print(path.name, "is read")
            except Unreadable as error:
                print(error)
    """
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    told = {line.removeprefix("TIFF compression ").split(", which")[0]: line for line in ended.stdout.splitlines()}
    for path in tmp_path.iterdir():  # of some, versions of tifffile have a decoder of their own
        if path.name == "LZW" or f"{path.name} is read" not in ended.stdout:
            assert told[path.name].endswith("which needs the package imagecodecs (uv pip install imagecodecs)"), ended.stdout


@pytest.mark.skipif(not importlib.util.find_spec("imagecodecs"), reason="the package imagecodecs is not installed")
def test_a_tiff_that_pillow_does_not_read_names_its_compression():
    color = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = tiff(color, photometric="rgb", compression="jpegxl")
    with pytest.raises(Unreadable, match=r"TIFF compression JPEGXL, which Pillow does not read; with data.range=\[0,255\]"):
        decode(io.BytesIO(data))
    np.testing.assert_array_equal(raster(data).pixels, color)


def test_geotiff_nodata_comes_from_its_tag():
    data = tiff(IMAGE, photometric="minisblack", planarconfig="separate", extratags=[(42113, "s", 0, "17", True)])
    assert raster(data).nodata == 17
    assert raster(tiff(IMAGE[0])).nodata is None


# ----------------------------------------------------------------------------------------------------------- NPY, NPZ, PNG


def test_npy_of_any_byte_order_and_layout():
    wide = RNG.integers(0, 4096, (5, 40, 50), dtype=np.uint16)
    for array in (wide, wide.astype(">u2"), np.asfortranarray(wide), wide.transpose(1, 2, 0)):
        np.testing.assert_array_equal(raster(npy(array)).pixels, wide.transpose(1, 2, 0))
    np.testing.assert_array_equal(raster(npy(wide[0])).pixels[..., 0], wide[0])
    with pytest.raises(Unreadable, match=r"shape \(5, 12, 20\): which axis holds the bands\? Set data.axes"):
        raster(npy(IMAGE))
    np.testing.assert_array_equal(raster(npy(IMAGE), Reading(axes="CYX")).pixels, IMAGE.transpose(1, 2, 0))
    np.testing.assert_array_equal(raster(npy(IMAGE), Reading(axes="YXC")).pixels, IMAGE)


def test_npz_holds_one_array():
    one, two = io.BytesIO(), io.BytesIO()
    np.savez_compressed(one, x=IMAGE[0])
    np.savez(two, x=IMAGE[0], mask=IMAGE[1])
    np.testing.assert_array_equal(raster(one.getvalue()).pixels[..., 0], IMAGE[0])
    with pytest.raises(Unreadable, match=r"2 arrays \(x, mask\)"):
        raster(two.getvalue())


def test_nothing_is_unpickled_and_nothing_huge_is_decoded():
    with pytest.raises(Unreadable, match="Python objects"):
        raster(npy(np.array([[{"a": 1}, 2]], dtype=object)))
    with pytest.raises(Unreadable, match="complex64 numbers"):
        raster(npy(np.zeros((4, 4), np.complex64)))
    header = npy(np.zeros((2, 2), np.uint8)).replace(b"(2, 2)", b"(999999, 99999)")[:128]
    for data in (header, tiff(IMAGE[0])):
        with pytest.raises(TooLarge):
            read_raster(io.BytesIO(data), PLAIN, most=100)
    with pytest.raises(Unreadable, match="empty file"):
        raster(b"")
    for data in (tiff(IMAGE)[:90], npy(IMAGE[0])[:200], b"PK\3\4nothing"):
        with pytest.raises(Unreadable):
            raster(data)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_keeps_them(channels):
    array = RNG.integers(0, 65536, (7, 9, channels), dtype=np.uint16)
    data = cv2.imencode(".png", array[..., [2, 1, 0, 3][:channels]] if channels > 1 else array)[1].tobytes()
    np.testing.assert_array_equal(raster(data, ALPHA).pixels, array)
    if channels == 4:
        opaque = array[..., 3:] / 65535
        laid = raster(data).pixels
        assert np.abs(laid - (array[..., :3] * opaque + 65535 * (1 - opaque))).max() <= 0.5


def test_what_pillow_reads_keeps_its_bands():
    rgba = RNG.integers(0, 256, (7, 9, 4), dtype=np.uint8)
    for mode, shape in (("RGBA", 4), ("RGB", 3), ("L", 1), ("1", 1)):
        buffer = io.BytesIO()
        Image.fromarray(rgba).convert(mode).save(buffer, "PNG")
        assert raster(buffer.getvalue(), ALPHA).pixels.shape == (7, 9, shape)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    np.testing.assert_array_equal(raster(buffer.getvalue(), ALPHA).pixels, rgba)
    over = Image.alpha_composite(Image.new("RGBA", (9, 7), "white"), Image.fromarray(rgba)).convert("RGB")
    np.testing.assert_array_equal(raster(buffer.getvalue()).pixels, np.asarray(over))


# ------------------------------------------------------------------------------------------------------------------ DICOM


def test_dicom_in_the_modalitys_units():
    data = dcmread(example("CT_small.dcm"))
    read = dicom("CT_small.dcm")
    np.testing.assert_array_equal(read.pixels[..., 0], apply_modality_lut(data.pixel_array, data))
    assert read.dicom
    assert not read.window
    assert read.pixels.min() < -800  # air, in HU


@pytest.mark.parametrize("name", ["MR_small.dcm", "examples_overlay.dcm"])
def test_dicoms_own_window_is_pydicoms_scaled_to_the_unit_range(name):
    data = dcmread(example(name))
    stored = apply_modality_lut(data.pixel_array, data)
    exact = apply_voi_lut(stored, data, index=0)
    signed, bits = data.PixelRepresentation, data.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    np.testing.assert_allclose(dicom(name, Reading(window=True)).pixels[..., 0], (exact - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_dicoms_window_functions(function, tmp_path):
    data = dcmread(example("examples_overlay.dcm"))
    data.VOILUTFunction = function
    data.save_as(tmp_path / "x.dcm")
    with open(tmp_path / "x.dcm", "rb") as file:
        read = read_raster(file, Reading(window=True)).pixels[..., 0]
    np.testing.assert_allclose(read, apply_voi_lut(data.pixel_array, data, index=0) / 4095, atol=1e-6)


def test_dicom_twins_are_equal_and_colors_are_rgb():
    plain = dicom("MR_small.dcm").pixels
    for twin in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        np.testing.assert_array_equal(dicom(twin).pixels, plain)
        assert dicom(twin).pixels.dtype.isnative
    palette = dcmread(example("examples_palette.dcm"))
    np.testing.assert_array_equal(dicom("examples_palette.dcm").pixels, apply_color_lut(palette.pixel_array, palette))
    deep = dcmread(example("SC_rgb_rle_16bit.dcm")).pixel_array
    np.testing.assert_array_equal(dicom("SC_rgb_rle_16bit.dcm").pixels, deep)
    np.testing.assert_allclose(dicom("SC_rgb_rle_16bit.dcm", Reading(window=True)).pixels, deep / 65535, atol=1e-6)
    mask = dicom("liver_1frame.dcm")
    assert mask.pixels.dtype == bool
    np.testing.assert_array_equal(mask.pixels[..., 0], dcmread(example("liver_1frame.dcm")).pixel_array > 0)


def test_dicom_frames():
    every = dcmread(example("examples_ybr_color.dcm")).pixel_array
    np.testing.assert_array_equal(dicom("examples_ybr_color.dcm").pixels, every[15])
    np.testing.assert_array_equal(dicom("examples_ybr_color.dcm", Reading(frame=3)).pixels, every[3])
    with pytest.raises(Unreadable, match=r"30 frames, and data\.frame=30"):
        dicom("examples_ybr_color.dcm", Reading(frame=30))


def test_dicom_monochrome1_is_inverted_and_padding_is_no_data(tmp_path):
    data = dcmread(example("CT_small.dcm"))
    stored = data.pixel_array
    data.PhotometricInterpretation, data.PixelPaddingValue = "MONOCHROME1", int(stored[0, 0])
    data.save_as(tmp_path / "x.dcm")
    with open(tmp_path / "x.dcm", "rb") as file:
        inverted = read_raster(file, PLAIN)
    how = PixelFormat(1, (-1000.0,), (1000.0,), (0.25,))
    upright, _ = scaled(dicom("CT_small.dcm"), how)
    x, valid = scaled(inverted, how)
    np.testing.assert_array_equal(valid[0], stored != stored[0, 0])
    np.testing.assert_allclose(x[valid], 1 - upright[valid], atol=1e-6)
    assert (x[~valid] == 0.25).all()


def test_dicom_that_cannot_be_read_says_why():
    with pytest.raises(Unreadable, match="without a window"):
        dicom("CT_small.dcm", Reading(window=True))
    with pytest.raises(Unreadable, match="DICOM in JPEG Extended"):
        dicom("JPGExtended.dcm")


# ------------------------------------------------------------------------------------------------------ scale and resize


def test_twelve_bits_keep_all_levels():
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    x = read_pixels(io.BytesIO(tiff(levels)), PixelFormat(1, (0.0,), (4095.0,), (0.0,)))
    assert (x.dtype, len(np.unique(x))) == (np.float32, 4096)
    np.testing.assert_allclose(x[0], levels / 4095, atol=1e-7)


def test_bands_range_nodata_and_nan():
    array = IMAGE.transpose(1, 2, 0).astype(np.float32)
    array[0, 0], array[1, 1] = np.nan, -9999
    how = PixelFormat(2, (0.0, 100.0), (4095.0, 2000.0), (0.5, 0.25), bands=(4, 2), nodata=-9999.0)
    x, valid = scaled(Raster(array), how)
    assert not valid[:, [0, 1], [0, 1]].any()
    assert valid.sum() == 2 * (12 * 20 - 2)
    assert x[:, 0, 0].tolist() == x[:, 1, 1].tolist() == [0.5, 0.25]
    np.testing.assert_allclose(x[1][valid[1]], ((array[..., 1] - 100) / 1900).clip(0, 1)[valid[1]], atol=1e-6)
    large = np.array([[[2**31 - 1], [2**31 - 101]]], np.int32)
    exact = scaled(Raster(large), PixelFormat(1, (2.0**31 - 101,), (2.0**31 - 1,), (0.0,)))
    assert exact[0].tolist() == [[[1.0, 0.0]]]  # float32 has not these digits


def test_other_bands_and_types_are_refused():
    file = Raster(IMAGE.transpose(1, 2, 0))
    with pytest.raises(Unreadable, match="5 bands, where the others have 3"):
        scaled(file, PixelFormat(3, (0.0,) * 3, (1.0,) * 3, (0.0,) * 3))
    with pytest.raises(Unreadable, match=r"5 bands, and data\.bands asks for number 6"):
        scaled(file, PixelFormat(1, (0.0,), (1.0,), (0.0,), bands=(6,)))
    with pytest.raises(Unreadable, match="uint16 numbers, where the others are uint8"):
        scaled(file, PixelFormat(5, (0.0,) * 5, (255.0,) * 5, (0.0,) * 5, kind="uint8"))


@pytest.mark.parametrize(("box", "size"), [((3, 2, 30, 41), 16), ((0, 0, 5, 7), 24), ((10, 20, 1, 1), 8)])
def test_resize_is_torchvisions(box, size):
    x = RNG.random((4, 48, 64), dtype=np.float32)
    top, left, height, width = box
    mine = resize_bands(x[:, top : top + height, left : left + width], size, size)
    theirs = resized_crop(torch.from_numpy(x), *box, [size, size], antialias=True)
    np.testing.assert_allclose(mine, theirs.numpy(), atol=2e-6)


def test_center_square_of_bands_is_that_of_8_bit_images():
    from vision.preprocess import center_square

    for shape in ((50, 40), (33, 97), (16, 16), (7, 9)):
        x = RNG.integers(0, 256, shape, dtype=np.uint8)
        eight = np.asarray(center_square(Image.fromarray(x), 24)).astype(float)
        mine = center_square_bands((x / 255).astype(np.float32)[None], 24)[0] * 255
        assert np.abs(mine - eight).max() <= 1.001  # two roundings to 8 bits


def test_pictures_show_the_first_bands():
    x = RNG.random((2, 5, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(shown(x), np.rint(x[:, :3] * 255).astype(np.uint8))
    assert shown(x[:, :2]).shape == (2, 1, 4, 4)
    eight = np.zeros((1, 3, 4, 4), np.uint8)
    assert shown(eight) is not None
    np.testing.assert_array_equal(shown(eight), eight)


# --------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("options", "line"), [
    ({"bands": [0, 1]}, r"data.bands=\[0, 1\]: bands are numbered from 1"),
    ({"bands": "rgb"}, "data.bands=rgb: a list of numbers from 1"),
    ({"bands": list(range(1, 34))}, "33 bands; at most 32"),
    ({"range": [1]}, r"data.range=\[1\]: \[low,high\]"),
    ({"range": [5, 5]}, "low < high"),
    ({"range": "minmax"}, "or percentile"),
    ({"range": [[0, 1], [2]]}, "one pair a band"),
    ({"nodata": "none"}, "data.nodata=none"),
    ({"frame": -1}, "data.frame=-1"),
    ({"axes": "XYC"}, "data.axes=XYC: CYX or YXC"),
])
def test_settings_are_checked(options, line):
    with pytest.raises(ValueError, match=line) as caught:
        PixelRequest.of(options)
    assert "\n" not in str(caught.value)


def test_settings():
    assert not PixelRequest.of({}).declared
    request = PixelRequest.of({"bands": [3, 2, 1], "range": [0, 4095]})
    assert (request.bands, request.range, request.reading) == ((3, 2, 1), ((0.0, 4095.0),), ALPHA)
    assert PixelRequest.of({"bands": 4}).bands == (4,)
