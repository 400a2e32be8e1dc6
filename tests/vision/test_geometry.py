"""Crop, squash and letterbox equal Pillow's and torchvision's to the bit; files state them, reports' lines repeat them."""
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from vision import artifact, encoders
from vision.geometry import CROP, FITS, LETTERBOX, SQUASH, Geometry
from vision.pixels import normalize_images
from vision.preprocess import FIXED, Preprocessing, center_square, fitted, fitted_bands
from vision.splits import Images

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
BYTES = (102, 128, 153)  # the nearest levels; 127.5 is rounded to even
SOURCES = [(40, 70), (70, 40), (24, 36), (48, 64), (1, 300), (300, 1), (1, 1), (201, 133), (33, 44), (5, 3)]  # height, width
SHAPES = [(48, 64), (64, 48), (24, 36), (17, 90), (32, 32)]


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng([width, height, channels]).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def by_pillow(image: Image.Image, shape: tuple[int, int], fit: str) -> np.ndarray:
    how = shape[::-1], Image.Resampling.BILINEAR
    if fit == LETTERBOX:
        image = ImageOps.pad(image, *how, color=BYTES if image.mode == "RGB" else BYTES[0])
    else:
        image = image.resize(*how) if fit == SQUASH else ImageOps.fit(image, *how)
    return np.asarray(image).reshape(*shape, -1).transpose(2, 0, 1)


def geometry(shape: tuple[int, int], fit: str, channels: int = 3) -> Geometry:
    return Geometry(*shape, fit, MEAN[:channels] if fit == LETTERBOX else ())


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_get_the_shape_as_by_pillow(fit, shape, channels):
    how = geometry(shape, fit, channels)
    for source in SOURCES:
        image = noise(*source, channels)
        found = fitted(image, how)
        assert found.shape == (channels, *shape)
        assert found.dtype == np.uint8
        if how.is_center_square:
            np.testing.assert_array_equal(found, np.asarray(center_square(image, 32)).reshape(32, 32, -1).transpose(2, 0, 1))
        elif fit != LETTERBOX or min(by_contain(source, shape)) > 0:  # Pillow leaves a strip of no pixel out
            np.testing.assert_array_equal(found, by_pillow(image, shape, fit), err_msg=str(source))


def by_contain(source: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    scale = min(shape[0] / source[0], shape[1] / source[1])
    return round(source[0] * scale), round(source[1] * scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_squash_is_torchvisions_resize(shape):
    for source in SOURCES:
        image = noise(*source)
        expected = v2.functional.pil_to_tensor(v2.Resize(shape)(image))
        assert np.array_equal(fitted(image, Geometry(*shape, SQUASH)), expected)


def test_a_strip_thinner_than_a_pixel_stays_one_pixel_thick():
    found = fitted(noise(1, 4000), geometry((48, 64), LETTERBOX))
    inside = [(found[:, y] != np.array(BYTES)[:, None]).any() for y in range(48)]
    assert inside == [y == 24 for y in range(48)]


@pytest.mark.parametrize("fit", FITS)
def test_bands_get_the_shape_that_bytes_do(fit):
    """Pillow rounds 8-bit images to whole levels after each of two passes."""
    how = geometry((24, 36), fit)
    for source in SOURCES:
        image = noise(*source)
        exact = fitted_bands((np.asarray(image, np.float32) / 255).transpose(2, 0, 1), how)
        assert np.abs(exact * 255 - fitted(image, how).astype(np.float32)).max() < 1.51


def test_a_letterbox_is_zero_around_the_image_after_normalization():
    how = Preprocessing((48, 64), 3, MEAN, STD, fit=LETTERBOX)
    levels = how.normalized(fitted(noise(40, 20), how.geometry))
    assert (np.abs(levels[:, :, :10]) <= 0.5 / 255 / np.array(STD)[:, None, None] + 1e-6).all()  # the nearest of 256 levels
    bands = how.normalized(fitted_bands(np.ones((3, 40, 20), np.float32), how.geometry))
    assert np.abs(bands[:, :, :10]).max() < 1e-6
    assert bands[:, 24, 32].min() > 1


def test_a_gray_image_of_a_color_encoder_is_padded_with_each_channels_mean():
    """And a color image of a gray encoder with the mean of its one channel."""
    found = fitted(noise(10, 40, 1), geometry((40, 40), LETTERBOX))
    assert found[:, 0, 0].tolist() == list(BYTES)
    assert (found[0, 15:25] == found[2, 15:25]).all()
    assert fitted(noise(10, 40), geometry((40, 40), LETTERBOX, 1))[:, 0, 0].tolist() == [BYTES[0]]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_memory_get_the_shape_as_files(fit, channels):
    pixels = torch.randint(0, 256, (4, channels, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    how = geometry((20, 44), fit, channels)
    found = Images(pixels).resized(torch.tensor([2, 0]), how)
    for row, i in zip(found.numpy(), (2, 0), strict=True):
        image = Image.fromarray(pixels[i].permute(1, 2, 0).squeeze(2).numpy())
        np.testing.assert_array_equal(row, by_pillow(image, (20, 44), fit))


# ---------------------------------------------------------------------------------------------------- what files state


def encoder_file(path, shape, fit, channels=3) -> artifact.EncoderHeader:
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", channels, shape).eval()
    encoder.spec = replace(encoder.spec, fit=fit, fill=MEAN[:channels] if fit == LETTERBOX else ())
    header = artifact.EncoderHeader(encoder.spec, MEAN[:channels], STD[:channels], encoder.dim, {})
    path.write_bytes(artifact.dumps(encoder, header, {}))
    return artifact.read_header(path)


@pytest.mark.parametrize(("shape", "fit"), [
    ((48, 64), CROP), ((48, 64), SQUASH), ((32, 24), LETTERBOX), (32, LETTERBOX), (32, SQUASH),
])  # fmt: skip
def test_a_header_states_shape_and_fit_and_older_versions_refuse_it(tmp_path, shape, fit):
    header = encoder_file(tmp_path / "e.safetensors", shape, fit)
    assert (header.spec.image_size, header.spec.fit) == (shape, fit)
    assert header.spec.geometry == header.preprocessing.geometry
    stated = json.loads(json.dumps(header.preprocessing.json))
    assert Preprocessing.of(stated) == header.preprocessing
    assert any(stated.get(name, value) != value for name, value in FIXED.items())  # what every version before compared
    encoder, _ = artifact.load(tmp_path / "e.safetensors")
    assert encoder.spec == header.spec


def test_a_square_that_is_cropped_is_stated_as_ever():
    spec = encoders.Spec("test_resnet", 3, 32)
    assert not {"fit", "fill"} & set(spec.json)
    assert "fit" not in Preprocessing(32, 3, MEAN, STD).json
    assert Preprocessing.of({"size": 32, "channels": 1, "mean": [0.5], "std": [0.5]}).geometry == Geometry(32, 32, CROP)


def test_a_fit_of_a_newer_version_is_refused():
    stated = Preprocessing((48, 64), 3, MEAN, STD).json | {"fit": "tile"}
    with pytest.raises(ValueError, match=r"preprocessing\.fit=tile: this version knows crop, squash, letterbox"):
        Preprocessing.of(stated)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_lines_that_reports_show_make_the_same_input(tmp_path, fit, channels):
    """To the bit, but for one rounding of the normalization."""
    path = tmp_path / "e.safetensors"
    header = encoder_file(path, (48, 64), fit, channels)
    names = {"timm": timm, "torch": torch, "safetensors": safetensors}
    exec(artifact.snippet(header, str(path)), names)
    for source in SOURCES:
        image = noise(*source, channels)
        body = io.BytesIO()
        image.save(body, "PNG")
        body.seek(0)
        expected = torch.from_numpy(header.preprocessing.read(body).copy())[None]
        if fit == LETTERBOX and min(by_contain(source, (48, 64))) == 0:
            continue  # Pillow's own pad makes nothing of so flat an image, or refuses it, by its version
        found = names["prepare"](image)
        expected = normalize_images(expected, torch.tensor(header.mean), torch.tensor(header.std))
        torch.testing.assert_close(found, expected, rtol=0, atol=2.0**-21)
    with torch.no_grad():
        torch.testing.assert_close(names["model"](found), artifact.load(path)[0](found))
