"""Folders of real files: what is decoded to which pixels, what is refused with which words, what is found where."""

import io
import os
import pickle
import shutil
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from vision import folder
from vision.folder import CHECK_SOME, Files, Unreadable, decode, load_folder, scan

RNG = np.random.default_rng(0)
UPRIGHT = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)  # H,W,C


def encoded(image, kind="PNG", **options) -> io.BytesIO:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixels(file: io.BytesIO, **options) -> np.ndarray:
    return np.asarray(decode(file, **options)).astype(int)


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256,) * 3).save(path)
    return path


def grey(files: Files) -> list[int]:
    """The grey value of each image that `save` wrote: which image it is."""
    return [files.read(i).getpixel((0, 0))[0] for i in range(len(files))]


def names(files: Files) -> list[str]:
    return [files.name(i) for i in range(len(files))]


# ----------------------------------------------------------------------------------------------------- one file → image


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


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_lose_the_picture():
    file = encoded(UPRIGHT, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    np.testing.assert_array_equal(pixels(file), UPRIGHT)


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
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
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


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">II", zlib.crc32(chunk), 9) + b"IDAT"


def broken() -> dict[str, bytes]:
    """Ten kinds of file that are no image, whatever they are called."""
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    png, jpeg, webp, tiff, gif = (encoded(noise, kind).getvalue() for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"))
    flipped = bytearray(png)
    flipped[60] ^= 0xFF  # in the compressed data: a checksum fails
    return {
        "empty.png": b"", "text.jpg": b"this is not an image\n", "half.png": png[: len(png) // 2],
        "half.jpeg": jpeg[: len(jpeg) // 2], "half.webp": webp[: len(webp) // 2], "half.tif": tiff[: len(tiff) // 2],
        "half.gif": gif[:900], "flipped.PNG": bytes(flipped), "page.bmp": b"<html><body>404</body></html>",
        "huge.png": png_header(30_000, 30_000),
    }


@pytest.mark.parametrize("name", broken())
@pytest.mark.filterwarnings("error")
def test_broken_files_are_unreadable_for_a_short_reason(name):
    with pytest.raises(Unreadable) as caught:
        decode(io.BytesIO(broken()[name]))
    why = str(caught.value)
    assert why
    assert len(why) <= 100
    assert "\n" not in why
    told = {"empty": "empty file", "text": "not an image", "page": "not an image", "huge": "30000 by 30000 pixels"}
    assert told.get(name.partition(".")[0], "") in why


@pytest.mark.filterwarnings("error")
def test_an_image_at_the_pixel_limit_is_readable(monkeypatch):
    assert folder.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(folder, "MAX_PIXELS", 240)
    assert decode(encoded(UPRIGHT)).size == (20, 12)
    monkeypatch.setattr(folder, "MAX_PIXELS", 239)
    with pytest.raises(Unreadable, match="20 by 12 pixels, the limit is 239"):
        decode(encoded(UPRIGHT))


def test_content_counts_not_the_suffix(tmp_path):
    (tmp_path / "really.png.jpg").write_bytes(encoded(UPRIGHT).getvalue())
    np.testing.assert_array_equal(np.asarray(load_folder(tmp_path).train.read(0)), UPRIGHT)


# ---------------------------------------------------------------------------------------------------------------- Files


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (33, 97), (16, 16), (7, 9), (1, 1), (64, 64), (200, 31)])
def test_resized_equals_torchvision(tmp_path, size):
    noise = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    for side in (16, 31, 64):
        got = scan(tmp_path)[0].resized(torch.tensor([0, 0]), side)
        assert (got.shape, got.dtype) == ((2, 3, side, side), torch.uint8)
        expected = pil_to_tensor(center_crop(resize(Image.fromarray(noise), side), [side, side]))
        # One level: Pillow rounds its coefficients to 22 bits, of another offset in our case.
        assert (got[0].int() - expected.int()).abs().max() <= 1


def test_resized_shows_little_that_a_jpeg_was_read_small(tmp_path):
    y, x = np.mgrid[:512, :640] / 6  # waves 38 pixels long, 5 once resized
    Image.fromarray((127 * (1 + np.sin(x) * np.cos(y))).astype(np.uint8)).save(tmp_path / "x.jpg", quality=95)
    files = scan(tmp_path)[0]
    assert files.read(0, at_least=128).size == (160, 128)
    expected = pil_to_tensor(center_crop(resize(files.read(0), 64), [64, 64])).int()
    difference = (files.resized(torch.tensor([0]), 64)[0].int() - expected).abs()
    assert difference.max() <= 8  # of 255, measured 7; 17 where it is read at 80 × 64


def test_a_strip_is_resized_without_a_giant(tmp_path):
    strip = np.zeros((2, 10_000, 3), np.uint8)
    strip[:, 4_999:5_001] = 255
    Image.fromarray(strip).save(tmp_path / "x.png")
    tracemalloc.start()
    middle = scan(tmp_path)[0].resized(torch.tensor([0]), 224)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert middle[0, 0, 112, 112] == 255


def test_readable_goes_to_the_next_and_remembers(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", 10 * i)
    files = scan(tmp_path)[0]
    for i in (2, 4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    files.max_corrupt = 0.4
    assert [files.readable(i)[1] for i in (0, 1, 2, 3, 4)] == [0, 1, 3, 3, 0]  # 4 + 1 modulo 5
    assert files.skipped == {str(tmp_path / "2.png"): "empty file", str(tmp_path / "4.png"): "empty file"}
    assert files.resized(torch.tensor([2, 4, 1]), 8)[:, 0, 0, 0].tolist() == [30, 0, 10]
    save(tmp_path / "4.png")
    assert files.readable(4)[1] == 0  # once skipped, always skipped: a run does not depend on when it came back
    assert files.select(torch.tensor([3, 4])).skipped == {}
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"3 of 5 images are unreadable \(60%\).*data.max_corrupt=0.4.*2.png"):
        files.readable(0)
    with pytest.raises(IndexError):
        files.read(5)


def test_files_survive_pickling_and_workers(tmp_path):
    for i in range(6):
        save(tmp_path / f"{'ab'[i % 2]}" / f"{i}.png", 40 * i)
    files = load_folder(tmp_path, validation=0).train
    again = pickle.loads(pickle.dumps(files))
    assert (names(again), grey(again)) == (names(files), grey(files))
    assert torch.equal(again.labels, files.labels)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return files.resized(torch.tensor([index]), 4)[0, 0, 0, 0]

    loaded = torch.utils.data.DataLoader(Items(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(loaded)).tolist() == grey(files)


def test_the_index_of_many_files_is_small(monkeypatch):
    many, path = 200_000, b"some_class_%03d/IMG_20240131_%09d_original.jpeg"  # 50 bytes
    walk = ((path % (i // 1000, i), b"some_class_%03d" % (i // 1000)) for i in range(many))
    monkeypatch.setattr(folder, "_walk", lambda *_: walk)
    tracemalloc.start()
    files, classes, *_ = scan("/nowhere")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(files) == many
    assert kept < 20e6  # 200,000 × (50 bytes of path + 8 offset + 8 row + 8 label) = 14.8 MB
    assert peak < 40e6
    assert len(classes) == 200
    assert files.name(123_456) == (path % (123, 123_456)).decode()
    part = files.select(torch.arange(0, many, 2))
    assert part.buffer is files.buffer
    assert part.path(61_728) == Path("/nowhere", files.name(123_456))
    assert part.labels[61_728] == 123


# -------------------------------------------------------------------------------------------------- what a folder holds


def test_flat_nested_and_odd_names(tmp_path):
    odd = ["a b.PNG", "Ünï😀.JpEg", "deep/er/and/deeper/x.webp", "line\nbreak.bmp", "z.tar.gif", ".hidden.png",
           ".git/x.png", "deep/.thumbs/y.png", "notes.txt"]
    for i, name in enumerate(odd):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}.get(path.suffix.lower(), "JPEG")
        path.write_bytes(encoded(np.full((4, 4), i, np.uint8), kind).getvalue())
    raw = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    Path(os.fsdecode(raw)).write_bytes(encoded(UPRIGHT).getvalue())
    dataset = load_folder(tmp_path, validation=0)
    found = [dataset.train.name(i) for i in range(len(dataset.train))]
    assert found == ["a b.PNG", "line\nbreak.bmp", "z.tar.gif", "Ünï😀.JpEg", "\\xff\\xfe.png", odd[2]]
    assert os.fsencode(dataset.train.path(4)) == raw
    np.testing.assert_array_equal(np.asarray(dataset.train.read(4)), UPRIGHT)
    "".join(found).encode()  # can be printed and written
    assert dataset.classes is None
    assert dataset.train.labels is None
    assert len(dataset.test) == 0
    assert dataset.test.labels is None
    assert (dataset.channels, dataset.image_size) == (3, 224)


def test_links_are_followed_without_loops(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "far.png", 1)
    root = tmp_path / "root"
    save(root / "a" / "near.png", 2)
    (root / "b").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(root)  # b/up → root: a loop
    (root / "a" / "self").symlink_to(root / "a")
    (root / "c.png").symlink_to(elsewhere / "far.png")
    os.mkfifo(root / "pipe.png")  # opening it would wait for ever
    files = scan(root)[0]
    assert names(files) == ["c.png", "a/near.png", "b/far.png"]
    assert grey(files) == [1, 2, 1]
    (root / "gone.png").symlink_to(root / "nothing")
    (root / "loop.png").symlink_to(root / "loop.png")
    dataset = load_folder(root, max_corrupt=0.4, validation=0)
    assert names(dataset.train) == names(files)
    assert set(dataset.skipped) == {str(root / "gone.png"), str(root / "loop.png")}
    assert "No such file" in dataset.skipped[str(root / "gone.png")]


def test_order_is_not_the_file_systems(tmp_path, monkeypatch):
    for i, name in enumerate(("b/2.png", "b/10.png", "a/z.png", "B/x.png", "ab/y.png")):
        save(tmp_path / name, i)
    expected = ["B/x.png", "a/z.png", "ab/y.png", "b/10.png", "b/2.png"]
    assert names(scan(tmp_path)[0]) == expected
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(folder.os, "scandir", Backwards)
    assert names(scan(tmp_path)[0]) == expected


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    build(tmp_path, open=3, shut=3)
    real = os.scandir

    def guarded(path):
        if os.fsencode(path).endswith(b"shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(folder.os, "scandir", guarded)
    dataset = load_folder(tmp_path, validation=0)
    assert names(dataset.train) == ["open/0.png", "open/1.png", "open/2.png"]
    assert dataset.skipped == {str(tmp_path / "shut"): "Permission denied"}
    for path in (tmp_path / "open").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no image that can be reached: .*shut \(Permission denied\)"):
        load_folder(tmp_path)


def build(root: Path, **splits: int) -> None:
    """build(root, train__cat=3) writes root/train/cat/0.png …; every image has a value of its own."""
    value = 0
    for name, count in splits.items():
        for i in range(count):
            save(root.joinpath(*name.split("__")) / f"{i}.png", value)
            value += 1


def test_labels_from_folders(tmp_path):
    build(tmp_path, cat__deep=10, dog=20, empty=0)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "x.txt").write_text("x")
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("cat", "dog")
    for split, sizes in ((dataset.train, [7, 15]), (dataset.validation, [1, 1]), (dataset.test, [2, 4])):
        assert split.labels.bincount().tolist() == sizes  # 20 % of 30, then 10 % of 24
        assert [name.split("/")[0] for name in names(split)] == [dataset.classes[k] for k in split.labels]
    everything = grey(dataset.train) + grey(dataset.validation) + grey(dataset.test)
    assert sorted(everything) == list(range(30))
    assert dataset.pretrain is dataset.train

    other = load_folder(tmp_path, seed=1)
    assert grey(other.test) == grey(dataset.test)  # no seed may move an image from test to pretraining
    assert grey(other.validation) != grey(dataset.validation)
    plain = load_folder(tmp_path, labels="none")
    assert plain.classes is plain.train.labels is None
    assert (len(plain.train), len(plain.validation), len(plain.test)) == (27, 3, 0)

    save(tmp_path / "stray.png")
    assert load_folder(tmp_path).classes is None
    with pytest.raises(ValueError, match=r"data.labels=folders needs two sub-folders"):
        load_folder(tmp_path, labels="folders")
    assert load_folder(tmp_path, labels="none").classes is None


def test_official_splits(tmp_path):
    build(tmp_path, train__a=6, train__b=6, valid__a=2, valid__b=1, test__b=2)
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("a", "b")
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    assert dataset.validation.labels.tolist() == [0, 0, 1]
    assert dataset.test.labels.tolist() == [1, 1]
    assert names(dataset.test) == ["test/b/0.png", "test/b/1.png"]
    assert dataset.test.path(0) == tmp_path / "test/b/0.png"

    save(tmp_path / "test" / "zebra" / "0.png")
    with pytest.raises(ValueError, match=r"test has images in 'zebra', which is no class of train"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, labels="none").classes is None

    shutil.rmtree(tmp_path / "test")
    assert len(load_folder(tmp_path).test) == 2  # carved out of train: 20 % of 12
    build(tmp_path, test__images=4)  # as in Tiny ImageNet, whose test has no labels
    dataset = load_folder(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (10, 2)
    assert "4 images without class folders" in dataset.skipped[str(tmp_path / "test")]


def test_unlabelled_splits_and_a_class_called_train(tmp_path):
    build(tmp_path / "one", train=10, val=3, test=2)
    dataset = load_folder(tmp_path / "one")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [10, 3, 2]
    assert dataset.classes is None
    build(tmp_path / "one", test__a=2, test__b=2)
    dataset = load_folder(tmp_path / "one")
    assert dataset.classes is dataset.test.labels is None  # classes are never taken from test
    assert len(dataset.test) == 6
    build(tmp_path / "two", bus=10, car=10, train=10)
    assert load_folder(tmp_path / "two").classes == ("bus", "car", "train")
    build(tmp_path / "three", train__a=5, train__b=5, archive=3)
    assert load_folder(tmp_path / "three").classes == ("a", "b")


def test_ten_of_a_hundred_are_corrupt(tmp_path):
    for i in range(90):
        save(tmp_path / f"{i:03}.png", i)
    for name, content in broken().items():
        (tmp_path / name).write_bytes(content)
    seen = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        dataset = load_folder(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert not warned
    assert seen == [(i, 100) for i in range(1, 101)]
    assert {Path(path).name for path in dataset.skipped} == set(broken())
    assert sorted(grey(dataset.train) + grey(dataset.validation)) == list(range(90))
    assert len(dataset.validation) == 9
    with pytest.raises(ValueError, match=r"^10 of 100 .* \(10%\), more than data.max_corrupt=0.09 allows") as caught:
        load_folder(tmp_path, max_corrupt=0.09)
    words = str(caught.value)
    assert [words.count(str(tmp_path / name)) for name in sorted(broken())[:4]] == [1, 1, 1, 0]
    assert "\n" not in words


def test_an_unreadable_file_moves_no_other_between_splits(tmp_path):
    build(tmp_path, a=50)
    whole = load_folder(tmp_path)
    lost = whole.train.path(3)
    lost.write_bytes(b"")
    rest = load_folder(tmp_path)
    assert names(rest.validation) == names(whole.validation)
    assert set(names(rest.train)) == set(names(whole.train)) - {"a/" + lost.name}


def test_of_many_files_some_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "CHECK_ALL", 20)
    monkeypatch.setattr(folder, "CHECK_SOME", 10)
    build(tmp_path, a=21)
    seen = []
    assert len(load_folder(tmp_path, progress=lambda *done: seen.append(done)).train) == 19
    assert seen[-1] == (10, 10)
    for path in sorted((tmp_path / "a").iterdir())[12:]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 10 images are unreadable"):  # at once, not an epoch later
        load_folder(tmp_path)
    assert CHECK_SOME == 500


def test_wrong_roots_end_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for i in range(12):
        path = tmp_path / "papers" / f"{i % 2}" / f"{i}{'.txt' if i < 10 else '.CSV'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    save(tmp_path / "dead" / "x.png").write_bytes(b"")
    for root, words in (
        (None, "needs data.root"), ("", "needs data.root"), (tmp_path / "gone", "gone does not exist"),
        (tmp_path / "papers" / "0" / "0.txt", "is a file"), (tmp_path / "empty", "empty is empty"),
        (tmp_path / "papers", r"has 12 files, none an image \(10 .txt, 2 .csv\).*\.jpg"),
        (tmp_path / "dead", "1 of 1 images are unreadable.*empty file"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            load_folder(root)
        assert "\n" not in str(caught.value)
        assert "data.root" in str(caught.value) or "data.max_corrupt" in str(caught.value)
    with pytest.raises(ValueError, match="no readable image"):
        load_folder(tmp_path / "dead", max_corrupt=1)
    save(tmp_path / "pile" / "x.png", 9)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert grey(load_folder("~/pile").train) == [9]


def test_nothing_of_pillow_was_turned_off():
    """Other code in the process keeps Pillow's guards."""
    assert PngImagePlugin.MAX_TEXT_MEMORY
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(png_header(30_000, 30_000)))
