"""The compiled views equal the batched operations of vision/pixels.py, and Pillow's crop and resize to the bit.

TOLERANCE: both are float32 and differ in the order of sums, in fused multiply-adds and in the hue's formula. Errors of a
few 6e-8 grow by jitter's factors (up to 1.8, 3.2 in hue's slope) and by 1/std = 4: 1e-5 measured, 2e-5 allowed. A wrong
pixel, weight or order shows as 1e-2 and more.
"""
import ast
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision import compiling, resize
from vision.augment import Augmentation, render, render_by_torch
from vision.pixels import SOLARIZE_AT
from vision.view import ORDERS
from vision.view_params import ViewParams

TOLERANCE = 2e-5
ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ("flip", "jitter", "grey", "blur", "solarize")
EVERYTHING = {"jitter": 0.8, "grey": 0.3, "blur": 0.5, "solarize": 0.4, "flip": 0.5}
SIZES = [  # source height and width, output
    (8, 8, 8), (28, 28, 28), (32, 32, 32), (20, 50, 32), (96, 96, 96), (150, 170, 96), (300, 31, 28), (12, 9, 28), (90, 70, 8),
]


def noise(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Images with flat and saturated parts, so that equal channels, grey and clamping all occur."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-60, 316, (count, channels, height, width), generator=generator).clamp(0, 255)
    images[::3, :, : height // 2] = images[::3, :1, : height // 2]
    return images.to(torch.uint8)


def moments(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([0.5, 0.4, 0.3][:channels]), torch.tensor([0.25, 0.26, 0.27][:channels])


def drawn(count: int, height: int, width: int, size: int, **settings) -> ViewParams:
    augmentation = Augmentation(size, (0.5,), (0.25,), views=1, **(dict.fromkeys(OPERATIONS, 0.0) | settings))
    return augmentation.sample_params(3, 0, torch.arange(count), height, width)[0]


def assert_equal(images: torch.Tensor, params: ViewParams, size: int, cropped: bool = False) -> None:
    """Where a value lies at solarization's jump, rounding chooses the side, and the pixel is not compared."""
    mean, std = moments(images.shape[1])
    got = render(images, params, size, mean, std, cropped)
    assert got.shape == (len(images), images.shape[1], size, size)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = render_by_torch(images, params, size, mean, std, cropped)
    before = render_by_torch(images, replace(params, solarize=torch.zeros_like(params.solarize)), size, mean, std, cropped)
    level = before * std[:, None, None] + mean[:, None, None]
    jump = ((level - SOLARIZE_AT).abs() < 1e-5) & params.solarize[:, None, None, None]
    assert jump.float().mean() < 1e-3
    torch.testing.assert_close(got.where(~jump, expected), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_recipes(height, width, size, channels):
    params = drawn(48, height, width, size, **EVERYTHING)
    assert len(torch.unique(params.order, dim=0)) > 12  # many of the 24 orders
    assert_equal(noise(48, channels, height, width), params, size)


@pytest.mark.parametrize("size", [1, 2, 8, 28, 32, 96, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_that_are_there_already(size, channels):
    params = drawn(12, 1, 1, size, **EVERYTHING)  # as StreamLoader params them: the box is not looked at
    assert_equal(noise(12, channels, size, size), params, size, cropped=True)


@pytest.mark.parametrize("operation", [None, *OPERATIONS])
@pytest.mark.parametrize("size", [8, 28, 32, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_alone(operation, size, channels):
    params = drawn(24, 40, 36, size, **({operation: 1.0} if operation else {}))
    assert_equal(noise(24, channels, 40, 36), params, size)


@pytest.mark.parametrize("alone", range(4))
def test_each_jitter_operation_alone(alone):
    params = drawn(48, 32, 32, 32, jitter=1.0)
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
    only = torch.where(torch.arange(4) == alone, params.factors, neutral)
    strong = only.clone()  # far ends, where everything is clamped or all grey
    strong[:, alone] = torch.tensor([0.0, 3.0] if alone < 3 else [-0.5, 0.5]).repeat(24)
    for factors in (only, strong):
        assert_equal(noise(48, 3, 32, 32), replace(params, order=ORDERS.repeat(2, 1), factors=factors), 32)


@pytest.mark.parametrize("size", [2, 8, 28, 32, 64, 96, 224])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 9.0])
def test_blur_of_every_strength(size, sigma):
    params = replace(drawn(3, size, size, size, blur=1.0), sigma=torch.full((3,), sigma))
    assert_equal(noise(3, 3, size, size), params, size, cropped=True)


@pytest.mark.parametrize("size", [8, 32, 96])
def test_crops_at_every_edge(size):
    """Corners, whole sides, single pixels, one row, one column, all of it; from 8 times as large to 40 times as small."""
    H, W = 37, 61
    boxes = torch.tensor([
        [0, 0, H, W], [0, 0, 1, 1], [H - 1, W - 1, 1, 1], [0, W - 1, 1, 1], [H - 1, 0, 1, 1], [0, 0, 1, W], [H - 1, 0, 1, W],
        [0, 0, H, 1], [0, W - 1, H, 1], [0, 0, 12, 12], [H - 12, W - 12, 12, 12], [5, 7, 12, 9], [0, W - 32, 32, 32],
    ])  # fmt: skip
    for flip in (False, True):
        params = replace(drawn(len(boxes), H, W, size), box=boxes, flip=torch.full((len(boxes),), flip))
        assert_equal(noise(len(boxes), 3, H, W), params, size)


def test_a_crop_outside_its_image_is_refused():
    params = replace(drawn(1, 8, 8, 8), box=torch.tensor([[1, 0, 8, 8]]))
    with pytest.raises(AssertionError, match="leaves its image"):
        render(noise(1, 3, 8, 8), params, 8, *moments(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_alone_and_images_in_any_memory(channels):
    images, params = noise(24, channels, 40, 36), drawn(24, 40, 36, 32, **EVERYTHING)
    whole = render(images, params, 32, *moments(channels))
    assert torch.equal(render(images[3:4], params[3:4], 32, *moments(channels)), whole[3:4])
    strided = torch.stack([images, images], -1)[..., 0]
    laid_out = images.to(memory_format=torch.channels_last), images.mT.contiguous().mT, strided
    for same in laid_out:
        assert torch.equal(render(same, params, 32, *moments(channels)), whole)
    assert torch.equal(render(images[::2], params[::2], 32, *moments(channels)), whole[::2])
    assert len(render(images[:0], params[:0], 32, *moments(channels))) == 0


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (96, 80, 96)])
def test_any_number_of_threads_and_any_cut_give_the_same_bits(height, width, size):
    images, params = noise(50, 3, height, width), drawn(50, height, width, size, **EVERYTHING)
    before, made = torch.get_num_threads(), []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        made.append(render(images, params, size, *moments(3)))
        for cut in (1, 7, 33):
            parts = [render(images[rows], params[rows], size, *moments(3)) for rows in (slice(0, cut), slice(cut, None))]
            made.append(torch.cat(parts))
    torch.set_num_threads(before)
    for other in made[1:]:
        assert torch.equal(other, made[0])


@pytest.mark.slow
def test_other_processes_can_be_forked_afterwards():
    code = (
        "import os, torch; from vision.augment import Augmentation; torch.set_num_threads(2)\n"
        "r = Augmentation(8, (.5,), (.2,)); x = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)\n"
        "d = r.sample_params(0, 0, torch.arange(64), 8, 8)\n"
        "def go(): return r.render(x, d)\n"
        "go(); child = os.fork()\n"
        "if child == 0: go(); os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "7\n", done.stderr


@pytest.mark.long
def test_a_place_where_no_code_can_be_kept(tmp_path):
    """Neither beside the source nor in the user's cache: compiled again, and no word about it."""
    shutil.copytree(ROOT / "vision", tmp_path / "vision", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vision" / "__pycache__").write_text("no folder")
    (tmp_path / "cache").write_text("no folder")
    nowhere = {"HOME": str(tmp_path / "cache"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from vision import kernels; print(kernels.__file__)"], cwd=tmp_path,
        env=os.environ | nowhere, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{tmp_path}/vision/kernels.py\n", "")


@pytest.mark.parametrize("size", [1, 16, 224])
def test_crop_resize_is_pillows(size):
    rng = np.random.default_rng(0)
    for height, width in ((375, 500), (40, 33), (7, 300), (1, 1)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        for attempt in range(12):
            h, w = (height, width) if attempt == 0 else (rng.integers(1, height + 1), rng.integers(1, width + 1))
            if not resize.columns_first(h, w, size):
                continue
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            crop = image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)
            got = np.empty((3, size, size), np.uint8)
            resize.crop_resize(np.asarray(image), top, left, h, w, got)
            np.testing.assert_array_equal(got, np.asarray(crop).transpose(2, 0, 1))


def test_kept_code_depends_on_every_file_that_is_compiled_into_it():
    """Each of our modules that a compiled file imports is one whose contents name the kept code."""
    folder = Path(compiling.__file__).parent
    for name in ("compiling", "kernel_policy", "kernels", "kernels_extended", "resample", "resize"):
        assert name in compiling.SOURCES
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("vision."):
                assert node.module.removeprefix("vision.") in compiling.SOURCES


def test_kept_code_has_another_name_after_a_change(tmp_path, monkeypatch):
    before = compiling.sources_digest()
    for name in compiling.SOURCES:
        (tmp_path / f"{name}.py").write_bytes(Path(compiling.__file__).with_name(f"{name}.py").read_bytes())
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    for name in compiling.SOURCES:
        compiling.sources_digest.cache_clear()
        digest = compiling.sources_digest()
        assert digest == before
        path = tmp_path / f"{name}.py"
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        compiling.sources_digest.cache_clear()
        assert compiling.sources_digest() != before
        path.write_bytes(content)
    compiling.sources_digest.cache_clear()
