"""Views that are rectangles: each operation equals torchvision's, the compiled code equals the batched one, files too.

Tolerances: as in test_augment.py, test_extended.py and test_kernels.py.
"""
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as of_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from core.processes import World
from vision import policy
from vision.augment import Augmentation, picture, render, render_by_torch
from vision.color_image import ColorImage
from vision.folder import load_folder
from vision.loaders import BatchSampler, loader
from vision.policy import OPERATIONS, RANDAUGMENT, TRIVIALAUGMENT
from vision.splits import Images
from vision.view import View
from vision.view_params import ViewParams, extend

SHAPES = [(24, 40), (40, 24), (8, 50), (33, 31)]  # height, width of a view
WARPED = 1e-4
QUIET = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
BILINEAR = v2.InterpolationMode.BILINEAR


def noise(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    images = torch.randint(-60, 316, (count, channels, height, width), generator=torch.Generator().manual_seed(0))
    return images.clamp(0, 255).to(torch.uint8)


def params_of(shape: tuple[int, int], source: tuple[int, int], count: int = 16, **settings) -> ViewParams:
    return View(shape, **(QUIET | settings)).sample_params(3, 1, torch.arange(count), 0, *source)


def both(images: torch.Tensor, params: ViewParams, shape: tuple[int, int], cropped: bool = False) -> tuple[torch.Tensor, ...]:
    """The view by the compiled code and by torch, in [0, 1]: nothing is normalized."""
    channels = images.shape[1]
    given = images, params, shape, torch.zeros(channels), torch.ones(channels), cropped
    return render(*given), render_by_torch(*given)


# ------------------------------------------------------------------------------------------------ equal to torchvision


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("source", [(60, 90), (90, 60), (12, 9)])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_crops_are_torchvisions_resized_crop(shape, source, channels):
    images, params = noise(16, channels, *source), params_of(shape, source, flip=0.5)
    expected = []
    for image, (top, left, height, width), flip in zip(images, params.box.tolist(), params.flip, strict=True):
        x = F.resized_crop(image.float() / 255, top, left, height, width, list(shape), antialias=True)
        expected.append(F.horizontal_flip(x) if flip else x)
    for got in both(images, params, shape):
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_torchvisions_with_a_kernel_a_tenth_of_the_shorter_side(shape):
    images, params = noise(16, 3, *shape), params_of(shape, shape, blur=1.0)
    size = 2 * max(1, min(shape) // 20) + 1
    expected = [F.gaussian_blur(x, [size] * 2, [s] * 2) for x, s in zip(images / 255, params.sigma.tolist(), strict=True)]
    for got in both(images, params, shape, cropped=True):
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_half_turns_and_rotations(shape):
    images, params = noise(32, 3, *shape), params_of(shape, shape, 32, vflip=0.5, turns=1.0)
    assert {*params.turns.tolist()} == {0, 2}
    expected = []
    for image, flipped, turns in zip(images / 255, params.vflip, params.turns.tolist(), strict=True):
        image = F.vertical_flip(image) if flipped else image
        expected.append(image.flip(-1, -2) if turns else image)
    for got in both(images, params, shape, cropped=True):
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-6, rtol=0)
    params = params_of(shape, shape, 32, rotate=180.0)
    angles = params.angle[:, 0].tolist()
    expected = [F.rotate(image, angle, BILINEAR) for image, angle in zip(images / 255, angles, strict=True)]
    for got in both(images, params, shape, cropped=True):
        torch.testing.assert_close(got, torch.stack(expected), atol=WARPED, rtol=0)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("Posterize", "Solarize", "Equalize")])  # no steps
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_operations_of_a_policy(name, shape):
    op, values = OPERATIONS.index(name), policy.magnitude_table(RANDAUGMENT, shape)[OPERATIONS.index(name)][::6]
    values = torch.cat([values, -values]) if policy.FIRST_WARP <= op <= policy.LAST_BLEND else values
    images, ops = noise(len(values), 3, *shape), torch.full((len(values), 1), op)
    params = extend(params_of(shape, shape, len(values)), ops=ops, magnitudes=values[:, None])
    of_torchvision = v2.RandAugment()._apply_image_or_video_transform
    expected = [of_torchvision(image.float() / 255, name, magnitude, BILINEAR, {torch.Tensor: None})
                for image, magnitude in zip(images, values.tolist(), strict=True)]
    for got in both(images, params, shape, cropped=True):
        torch.testing.assert_close(got, torch.stack(expected), atol=WARPED, rtol=0)


@pytest.mark.parametrize(("kind", "official"), [(RANDAUGMENT, v2.RandAugment), (TRIVIALAUGMENT, v2.TrivialAugmentWide)])
@pytest.mark.parametrize("shape", SHAPES)
def test_magnitudes_are_torchvisions(kind, official, shape):
    space = official._AUGMENTATION_SPACE
    for row, (name, (magnitudes, _)) in zip(policy.magnitude_table(kind, shape), space.items(), strict=True):
        expected = magnitudes(policy.BINS, *shape)
        expected = torch.zeros(policy.BINS) if expected is None else expected.float()
        assert torch.equal(row, expected.trunc() if name.startswith("Translate") else expected), name


# ------------------------------------------------------------------------------------------- compiled and batched agree


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("cropped", [False, True])
def test_whole_chains(shape, channels, cropped):
    color = {"saturation": 0.8, "hue": 0.2, "grey": 0.3} if channels == 3 else {"saturation": 0.0, "hue": 0.0, "grey": 0.0}
    settings = color | {"flip": 0.5, "jitter": 0.8, "blur": 0.5}
    settings |= {"vflip": 0.5, "turns": 0.5, "rotate": 30.0, "gain": 0.2, "noise": 0.1}
    source = shape if cropped else (50, 70)
    images, mean, std = noise(24, channels, *source), torch.full((channels,), 0.5), torch.full((channels,), 0.25)
    for chosen in (settings, {name: settings[name] for name in (*color, "flip", "jitter", "blur")}):
        params = params_of(shape, source, 24, **chosen)
        given = images, params, shape, mean, std, cropped
        got, expected = render(*given), render_by_torch(*given)
        assert got.shape == (24, channels, *shape)
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, expected, atol=4 * WARPED, rtol=0)


def test_global_and_local_views_and_their_picture():
    """0.43 of 96×160, to the next multiple of a patch of 16."""
    augmentation = Augmentation((96, 160), (0.5,) * 3, (0.25,) * 3, local={"views": 2, "size": 0.43}, multiple=16)
    assert augmentation.local_size == (48, 64)
    images = noise(3, 3, 120, 110)
    params = augmentation.sample_params(0, 0, torch.arange(3), 120, 110)
    assert [view.shape[2:] for view in augmentation.render(images, params)] == [(96, 160)] * 2 + [(48, 64)] * 2
    assert picture(images, augmentation)[:4] == b"\x89PNG"


# ------------------------------------------------------------------------------------------------------------ loaders


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_of_files_are_torchvisions_to_the_bit(shape):
    rng = np.random.default_rng(0)
    for height, width in ((70, 90), (90, 20), (9, 300)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for _ in range(10):
            h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            out = torch.empty(3, *shape, dtype=torch.uint8)
            ColorImage(np.asarray(image)).crop_resize([top, left, h, w], out)
            expected = of_images.resized_crop(image, top, left, h, w, list(shape), antialias=True)
            assert torch.equal(out, of_images.pil_to_tensor(expected))


def test_batches_of_files_and_of_images_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    augmentation = Augmentation((24, 40), (0.5,) * 3, (0.25,) * 3, local={"views": 1, "size": 0.5})
    world = World(0, 1, 0, 1, torch.device("cpu"))
    for split in (load_folder(str(tmp_path)).pretrain, Images(noise(8, 3, 28, 28), torch.arange(8) % 2)):
        deal = BatchSampler(len(split), 2, 0, world)
        batch = next(iter(loader(split, augmentation, deal, 3).batches(0, 1)))
        assert [view.shape for view in batch.views] == [(2, 3, 24, 40)] * 2 + [(2, 3, 12, 20)]
        assert len(batch.boxes) == 3
