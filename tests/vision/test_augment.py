"""Augmentations equal torchvision's functional ones, image by image, and are drawn as torchvision params them.

TOLERANCE: ours and torchvision's float32 sums run in another order. A pixel in [0, 1] is off by a few ulp of 6e-8 after
one operation (resampling and the hue's division the most), and jitter (two factors up to 1.8, or 3.2 in hue's slope)
and normalization (1/std = 4) enlarge it: below 1e-5 for one operation, below 5e-5 for the chain. A wrong pixel, weight
or order shows as 1e-2 and more.
"""
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from core import cli
from vision import augment, masks, pixels
from vision.augment import Augmentation, picture, render
from vision.late import LATEST
from vision.pixels import BRIGHTNESS, CONTRAST, HUE, SATURATION
from vision.view import ORDERS, View
from vision.view_params import ViewParams

ONE, CHAIN = 1e-5, 5e-5
ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = {"jitter": 0.8, "grey": 0.3, "blur": 0.5, "solarize": 0.4, "flip": 0.5}
SIZES = [  # source height and width, output
    (8, 8, 8), (28, 28, 28), (32, 32, 32), (64, 64, 64), (37, 90, 32), (200, 31, 64), (12, 9, 28), (150, 170, 8),
]


def noise(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Images with flat and saturated parts, so that equal channels, grey and clamping all occur."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-60, 316, (count, channels, height, width), generator=generator).clamp(0, 255)
    images[::3, :, : height // 2] = images[::3, :1, : height // 2]
    return images.to(torch.uint8)


def unchanging(count: int, height: int, width: int, **changes) -> ViewParams:
    """Parameters that change nothing, with `changes`."""
    no = torch.zeros(count, dtype=torch.bool)
    box = torch.tensor([[0, 0, height, width]]).expand(count, 4)
    params = ViewParams(source=box[:, 2:], box=box, flip=no, jitter=no, order=ORDERS[:1].expand(count, 4),
                        factors=torch.zeros(count, 4), grey=no, blur=no, sigma=torch.ones(count), solarize=no)
    return replace(params, **changes)


def kernel_size(size: int) -> int:
    return 2 * max(1, size // 20) + 1  # a tenth of the image, odd


def by_torchvision(image: torch.Tensor, d: ViewParams, i: int, size: int, mean, std, cropped: bool = False):
    """One image C,H,W uint8 by torchvision → its view, and where solarization's jump makes the comparison unfair."""
    x = image.float() / 255
    if not cropped:
        x = F.resized_crop(x, *d.box[i].tolist(), [size, size], antialias=True)
    if d.flip[i]:
        x = F.horizontal_flip(x)
    if d.jitter[i]:
        steps = {BRIGHTNESS: F.adjust_brightness, CONTRAST: F.adjust_contrast, SATURATION: F.adjust_saturation,
                 HUE: F.adjust_hue}
        for operation in d.order[i].tolist():
            x = steps[operation](x, d.factors[i, operation].item())
    if d.grey[i]:
        x = F.rgb_to_grayscale(x, num_output_channels=len(x))
    if d.blur[i]:
        x = F.gaussian_blur(x, kernel_size(size), d.sigma[i].item())
    jump = torch.zeros_like(x, dtype=torch.bool)
    if d.solarize[i]:
        jump = (x - 128 / 255).abs() < ONE  # which side a pixel falls on is rounding's choice
        x = F.solarize(x, 128 / 255)
    return F.normalize(x, list(mean), list(std)), jump


def assert_chain(images: torch.Tensor, d: ViewParams, size: int, got: torch.Tensor, mean, std, cropped: bool = False):
    assert got.shape == (len(images), images.shape[1], size, size)
    assert got.dtype == torch.float32
    unfair = 0
    for i, image in enumerate(images):
        expected, jump = by_torchvision(image, d, i, size, mean, std, cropped)
        difference = (got[i] - expected).abs().masked_fill(jump, 0)
        assert difference.max() < CHAIN, (i, difference.max())
        unfair += jump.sum().item()
    assert unfair < 1e-3 * got.numel()


# ------------------------------------------------------------------------------------------------ equal to torchvision


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_chain(height, width, size, channels):
    count, mean, std = 48, (0.5, 0.4, 0.3)[:channels], (0.25, 0.26, 0.27)[:channels]
    images = noise(count, channels, height, width)
    augmentation = Augmentation(size, mean, std, **EVERYTHING)
    params = augmentation.sample_params(0, 0, torch.arange(count), height, width)
    assert len(torch.unique(params[0].order, dim=0)) > 12  # many of the 24 orders
    for d, view in zip(params, augmentation.render(images, params), strict=True):
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert_chain(images, d, size, view, mean, std)


@pytest.mark.parametrize("channels", [1, 3])
def test_chain_of_images_cropped_already(channels):
    images = [noise(40, channels, 32, 32, seed) for seed in (1, 2)]
    mean, std = (0.5,) * channels, (0.25,) * channels
    augmentation = Augmentation(32, mean, std, **EVERYTHING)
    params = augmentation.sample_params(0, 0, torch.arange(40), 1, 1)  # as StreamLoader params them: the box is not looked at
    before = [part.clone() for part in images]
    for part, d, view in zip(images, params, augmentation.render(images, params), strict=True):
        assert_chain(part, d, 32, view, mean, std, cropped=True)
    assert all(map(torch.equal, images, before))


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_resized_crop_and_flip(height, width, size):
    images = noise(24, 3, height, width)
    box = View(size).sample_params(5, 0, torch.arange(24), 0, height, width).box
    box[0], box[1] = torch.tensor([0, 0, height, width]), torch.tensor([height - 1, width - 1, 1, 1])
    flip = torch.arange(24) % 2 == 1
    got = pixels.resized_crop(images, box, flip, size)
    for i, image in enumerate(images):
        expected = F.resized_crop(image.float() / 255, *box[i].tolist(), [size, size], antialias=True)
        torch.testing.assert_close(got[i], expected.flip(-1) if flip[i] else expected, atol=ONE, rtol=0)
    assert got.min() >= 0
    assert got.max() <= 1


@pytest.mark.parametrize(("operation", "official", "factors"), [
    (BRIGHTNESS, F.adjust_brightness, (0.0, 0.2, 1.0, 1.8)),
    (CONTRAST, F.adjust_contrast, (0.0, 0.2, 1.0, 1.8)),
    (SATURATION, F.adjust_saturation, (0.0, 0.2, 1.0, 1.8)),
    (HUE, F.adjust_hue, (-0.5, -0.2, 0.0, 0.1, 0.5)),
])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_jitter_operation_alone(operation, official, factors, channels):
    x = noise(12, channels, 28, 28).float() / 255
    for factor in factors:
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(12, 1)
        neutral[:, operation] = factor
        got = pixels.color_jitter(x, torch.ones(12, dtype=torch.bool), ORDERS[:12], neutral)
        for i in range(12):
            torch.testing.assert_close(got[i], official(x[i], factor), atol=ONE, rtol=0)


def test_hue_of_every_color():
    """All corners, edges and ties of the color cube: the hue's six sectors and their borders."""
    levels = torch.tensor([0.0, 0.2, 0.5, 0.50001, 0.8, 1.0])
    x = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 12, 18)
    for turns in (-0.5, -1 / 3, -0.1, 0.0, 1e-3, 1 / 6, 0.5):
        torch.testing.assert_close(pixels.turn_hue(x, torch.tensor([turns])), F.adjust_hue(x, turns), atol=ONE, rtol=0)


@pytest.mark.parametrize("size", [2, 8, 28, 32, 64, 96, 224])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur(size, sigma):
    x = noise(3, 3, size, size).float() / 255
    expected = F.gaussian_blur(x, kernel_size(size), sigma)
    torch.testing.assert_close(pixels.gaussian_blur(x, torch.full((3,), sigma)), expected, atol=ONE, rtol=0)


@pytest.mark.parametrize("always", [EVERYTHING, ["grey"], ["grey", "blur"], ["blur"]])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_that_take_all_images_of_a_batch_or_none(channels, always):
    mean, std = (0.5,) * channels, (0.25,) * channels
    augmentation = Augmentation(32, mean, std, **{name: float(name in always) for name in EVERYTHING})
    params = augmentation.sample_params(0, 0, torch.arange(5), 40, 36)
    images = noise(5, channels, 40, 36)
    for d, view in zip(params, augmentation.render(images, params), strict=True):
        assert_chain(images, d, 32, view, mean, std)


def test_a_single_pixel_survives_every_operation():
    augmentation = Augmentation(1, (0.5,), (0.25,), **(EVERYTHING | {"blur": 1.0}))
    views = augmentation.render(noise(20, 1, 5, 5), augmentation.sample_params(0, 0, torch.arange(20), 5, 5))
    assert all(view.isfinite().all() for view in views)


def test_grayscale_solarize_and_normalize():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    images = torch.cat([every, every.flip(-1), every.mT], dim=1)
    yes = torch.ones(1, dtype=torch.bool)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = images[0].float() / 255
    for change, expected in (({"grey": yes}, F.rgb_to_grayscale(scaled, 3)),
                             ({"solarize": yes}, F.solarize(scaled, 128 / 255)), ({}, scaled)):
        got = render(images, unchanging(1, 16, 16, **change), 16, mean, std, cropped=True)[0]
        torch.testing.assert_close(got, F.normalize(expected, mean.tolist(), std.tolist()), atol=ONE, rtol=0)
    normalized = pixels.normalize_images(images, mean, std)[0]
    torch.testing.assert_close(normalized, F.normalize(scaled, mean.tolist(), std.tolist()), atol=ONE, rtol=0)


# ---------------------------------------------------------------------------------------------------- drawn as they do


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (40, 90), (300, 40), (5, 64)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.4, 1.0)])
def test_crops_are_distributed_as_torchvisions(height, width, scale):
    """Kolmogorov–Smirnov on each side, place, area and shape; (300, 40) and (5, 64) often find no crop that fits."""
    many, ratio = 3_000, (3 / 4, 4 / 3)
    ours = View(32, crop=scale, ratio=ratio).sample_params(0, 0, torch.arange(many), 0, height, width).box
    torch.manual_seed(0)
    blank = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(many)])
    top, left, h, w = ours.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()

    def figures(boxes):
        top, left, h, w = boxes.double().unbind(1)
        return {"top": top, "left": left, "height": h, "width": w, "area": h * w, "shape": w / h}

    for (name, mine), other in zip(figures(ours).items(), figures(theirs).values(), strict=True):
        # Both samples are fixed, so this passes or never does; 60 comparisons, 1e-4 each.
        assert stats.ks_2samp(mine.numpy(), other.numpy(), method="asymp").pvalue > 1e-4, name


def test_sizes_of_each_image_make_its_box():
    """One call for images of many sizes gives what a call for each gives."""
    height, width = torch.tensor([8, 500, 31, 1]), torch.tensor([90, 20, 31, 1])
    together = View(32).sample_params(0, 4, torch.arange(4), 1, height, width)
    for i in range(4):
        alone = View(32).sample_params(0, 4, torch.tensor([i]), 1, int(height[i]), int(width[i]))
        assert torch.equal(alone.box[0], together.box[i])
    assert together.box[3].tolist() == [0, 0, 1, 1]


def test_probabilities_and_strengths():
    many = 20_000
    view = View(32, jitter=0.7, grey=0.2, blur=0.4, solarize=0.1, flip=0.3, brightness=0.4, contrast=1.5,
                saturation=0.0, hue=0.1, sigma=(0.5, 1.5))
    d = view.sample_params(0, 0, torch.arange(many), 0, 32, 32)
    for name in ("jitter", "grey", "blur", "solarize", "flip"):
        p = getattr(view, name)
        share = getattr(d, name).float().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / many) ** 0.5, name  # four standard errors
    uniform = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "hue": (-0.1, 0.1)}  # 1 ± strength, not below 0
    for name, (low, high) in uniform.items():
        drawn = d.factors[:, ("brightness", "contrast", "saturation", "hue").index(name)]
        assert stats.kstest(drawn.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-3, name
    assert (d.factors[:, SATURATION] == 1).all()
    assert stats.kstest(d.sigma.numpy(), "uniform", args=(0.5, 1.0)).pvalue > 1e-3
    _, counts = torch.unique(d.order, dim=0, return_counts=True)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert len(counts) == 24


def test_what_is_drawn_for_an_image_is_independent():
    """No two parameters share a random number: Spearman's correlation of each pair within four standard errors."""
    many = 20_000
    d = View(32).sample_params(0, 0, torch.arange(many), 0, 32, 32)
    half = View(32, flip=0.5, jitter=0.5, grey=0.5, blur=0.5, solarize=0.5).sample_params(0, 0, torch.arange(many), 0, 32, 32)
    drawn = [half.flip, half.jitter, half.grey, half.blur, half.solarize, d.sigma, *d.factors.T, d.order[:, 0],
             d.box[:, 2:].prod(1), d.box[:, 2] / d.box[:, 3]]
    correlation = stats.spearmanr(torch.stack([x.double() for x in drawn], dim=1).numpy()).statistic
    assert abs(correlation - torch.eye(len(drawn)).numpy()).max() < 4 / many**0.5


def test_a_view_is_the_same_in_any_company():
    """Parameters exactly. Pixels too where this was measured (x86-64, MKL, one and two threads), but another matrix
    library may sum a batch of one in another order, so a few ulp are allowed."""
    images = noise(300, 3, 40, 36)  # 300: more than are rendered together
    augmentation = Augmentation(32, (0.5,) * 3, (0.25,) * 3, **EVERYTHING)
    params = augmentation.sample_params(7, 3, torch.arange(300), 40, 36)
    whole = augmentation.render(images, params)
    for some in ([0], [299], [70, 3], list(range(5, 300, 2))):
        rows = torch.tensor(some)
        again = augmentation.sample_params(7, 3, rows, 40, 36)
        for one, two in zip(again, params, strict=True):
            for name in ViewParams.__dataclass_fields__:
                assert torch.equal(getattr(one, name), getattr(two, name)[rows]), name
        for one, two in zip(augmentation.render(images[rows], again), whole, strict=True):
            torch.testing.assert_close(one, two[rows], atol=1e-5, rtol=0)


def test_views_epochs_and_seeds_differ():
    augmentation = Augmentation(32, (0.5,), (0.25,), views=3)
    indices = torch.arange(500)
    boxes = [d.box for d in augmentation.sample_params(0, 0, indices, 96, 96)]
    boxes += [augmentation.sample_params(seed, epoch, indices, 96, 96)[0].box for seed, epoch in ((0, 1), (1, 0))]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert (one == other).all(1).float().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("channels", [1, 3])
def test_cuda_and_cpu_agree(channels):
    """The GPU's sums and exponentials round otherwise; TF32 is off by default in torch's matrix products."""
    images = noise(300, channels, 40, 36)
    augmentation = Augmentation(32, (0.5,) * channels, (0.25,) * channels, **(EVERYTHING | {"solarize": 0.0}))
    params = augmentation.sample_params(0, 0, torch.arange(300), 40, 36)
    on_device = augmentation.sample_params(0, 0, torch.arange(300, device="cuda"), 40, 36)
    for one, two in zip(params, on_device, strict=True):
        for name in ("flip", "jitter", "order", "grey", "blur"):  # integers alone decide these
            assert torch.equal(getattr(one, name), getattr(two, name).cpu()), name
    for one, two in zip(augmentation.render(images, params), augmentation.render(images.cuda(), params), strict=True):
        assert two.is_cuda
        torch.testing.assert_close(one, two.cpu(), atol=CHAIN, rtol=0)


# ------------------------------------------------------------------------------------------------------------- recipes


def test_a_list_gives_each_view_its_own():
    own = {"blur": [1.0, 0.1], "solarize": [0.0, 0.2], "crop": [[0.2, 1.0], [0.05, 0.2]]}
    augmentation = Augmentation(32, (0.5,), (0.25,), views=2, sigma=[0.1, 1.0], flip=0, **own)
    first, second = augmentation.views
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    assert (first.crop, second.crop) == ((0.2, 1.0), (0.05, 0.2))
    assert first.sigma == second.sigma == (0.1, 1.0)  # a pair is no list of views
    params = augmentation.sample_params(0, 0, torch.arange(99), 96, 96)
    small, large = (view.box[:, 2:].prod(1).float().mean() for view in reversed(params))
    assert small < 0.3 * large


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "vision/config/augment").glob("*.yaml")))
def test_every_recipe_names_all_settings(name):
    settings = yaml.safe_load((ROOT / "vision/config/augment" / f"{name}.yaml").read_text())
    assert set(settings) - set(LATEST) == {"views", "local", "view_size", *View.__dataclass_fields__} - {"size"}
    assert set(settings["local"]) == {"views", "size", "crop", "blur", "solarize"}
    augmentation = Augmentation(28, (0.5,), (0.25,), **settings)
    views = augmentation.render(noise(9, 1, 28, 28), augmentation.sample_params(0, 0, torch.arange(9), 28, 28))
    assert len(views) == settings["views"] + settings["local"]["views"]


@pytest.mark.parametrize(("settings", "message"), [
    ({"flop": 0.5}, r"augment.flop is not a setting; did you mean flip\?"),
    ({"Sigma_": 3}, "augment.Sigma_ is not a setting"),
    ({"xyzzy": 3}, "augment.xyzzy is not a setting; there are views, local, view_size, crop, ratio"),
    ({"flip": 1.5}, "augment.flip=1.5: a probability"),
    ({"flip": float("nan")}, "augment.flip=nan: a probability"),
    ({"blur": "often"}, "augment.blur=often: needs a number"),
    ({"grey": None}, "augment.grey=None: needs a number"),
    ({"blur": [0.1, 0.2, 0.3]}, "augment.blur lists 3 values for 2 views"),
    ({"blur": []}, "augment.blur lists 0 values for 2 views"),
    ({"crop": 0.5}, r"augment.crop=0.5: needs two numbers"),
    ({"crop": [0.5]}, r"augment.crop=\[0.5\]: needs two numbers"),
    ({"crop": []}, r"augment.crop=\[\]: needs two numbers"),
    ({"crop": [0.2, 1.2]}, r"augment.crop=\[0.2, 1.2\]: shares of the image's area"),
    ({"crop": [1.0, 0.2]}, r"augment.crop=\[1.0, 0.2\]: needs 0 < smallest"),
    ({"crop": [[0.2, 1.0]]}, "augment.crop lists 1 values for 2 views"),
    ({"crop": [[0.2, 1.0], 0.3]}, "augment.crop=0.3: needs two numbers"),
    ({"ratio": [0, 1]}, r"augment.ratio=\[0, 1\]: needs 0 < smallest"),
    ({"sigma": [-1, 1]}, r"augment.sigma=\[-1, 1\]: needs 0 < smallest"),
    ({"hue": 0.6}, "augment.hue=0.6"),
    ({"contrast": -0.1}, "augment.contrast=-0.1: cannot be negative"),
    ({"views": 0}, "augment.views=0: a whole number"),
    ({"views": 2.5}, "augment.views=2.5: a whole number"),
])
def test_mistakes_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Augmentation(32, (0.5,), (0.25,), **settings)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- picture


def test_picture_shows_images_above_their_views(tmp_path):
    images = noise(5, 1, 8, 8)
    augmentation = Augmentation(8, (0.5,), (0.25,), crop=[1.0, 1.0], ratio=[1.0, 1.0], flip=0, jitter=0, grey=0, blur=0)
    (tmp_path / "x.png").write_bytes(picture(images, augmentation))
    with Image.open(tmp_path / "x.png") as image:
        scale = 96 // 8
        assert image.size == (5 * 10 * scale, 3 * 10 * scale)  # a border of one pixel around each
        rows = torch.tensor(list(image.resize((50, 30), Image.Resampling.NEAREST).convert("L").tobytes()))
    cells = rows.view(3, 10, 5, 10)[:, 1:9, :, 1:9].permute(0, 2, 1, 3)  # rows,B,S,S
    for row in cells:  # this augmentation changes nothing
        assert (row - images[:, 0].long()).abs().max() <= 1  # normalizing and back, rounded to 8 bits


def test_the_picture_shows_what_is_masked_faintly(tmp_path):
    images, augmentation = noise(6, 1, 32, 32), Augmentation(32, (0.5,), (0.25,), views=1, jitter=0, grey=0, blur=0)
    words = ("data=synthetic", "masks=block", "mask_ratio=0.25", "patch=8", "seed=3")
    drawn = []
    veil = augment.mask_veil(cli.compose(augment.TOOL, list(words)))
    view = torch.rand(6, 1, 32, 32)
    (tmp_path / "x.png").write_bytes(
        picture(images, augmentation, 3, veiled=lambda x, i, n: drawn.append((i, n)) or veil(view, i, n))
    )
    (indices, number), = drawn
    shown = veil(view, indices, number)
    mask = masks.block(masks.words(3, 0, torch.arange(6), 0, 200), (4, 4), 4).view(6, 1, 4, 4)
    inside = mask.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(shown[~inside], view[~inside])
    assert (shown[inside] - 0.5).abs().max() <= 0.1 + 1e-6
    with pytest.raises(ValueError, match="patch=32: a view of 32×32 px"):
        augment.mask_veil(cli.compose(augment.TOOL, ["masks=block", "patch=32"]))(view, indices, 0)


@pytest.mark.long
def test_the_command_as_typed(tmp_path):
    done = subprocess.run([sys.executable, "-m", "vision.augment", "--data", "digits"], cwd=tmp_path, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "runs/augment-digits.png: 12 images of digits above their 2 views\n"
    with Image.open(tmp_path / "runs/augment-digits.png") as image:
        assert image.size == (12 * 10 * 12, 3 * 10 * 12)


def test_the_command_takes_the_settings_of_a_run(tmp_path, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vision.augment", *arguments])
        code = augment.main()
        return code, "".join(capsys.readouterr())

    out = tmp_path / "deep" / "my picture.png"
    arguments = ("--data=synthetic", "--augment", "weak", "--augment.views", "1", "batch_size=7", "--out", str(out))
    assert run(*arguments) == (0, f"{out}: 7 images of synthetic above their 1 views\n")
    first = out.read_bytes()
    with Image.open(out) as image:
        assert image.size == (7 * 34 * 3, 2 * 34 * 3)
    assert run(*arguments)[0] == 0  # its own picture it may write again
    assert out.read_bytes() == first
    run(*arguments, "--seed", "3")
    assert out.read_bytes() != first
    (tmp_path / "files").mkdir()
    for i in range(9):
        Image.new("RGB", (50 + i, 40), (i, 0, 0)).save(tmp_path / "files" / f"{i}.png")
    folder = ("--data", "folder", "--data.root", str(tmp_path / "files"), "--image_size", "32", "--out", str(out))
    assert run(*folder) == (0, f"{out}: 8 images of folder above their 2 views\n")  # 9 less one for validation

    wrong = run("--data", "digits", "--augment.flip", "2", "--out", str(out))
    assert wrong == (2, "error: augment.flip=2: a probability lies between 0 and 1\n")
    wrong = run("--data", "digits", "--out", str(tmp_path))
    assert wrong == (2, f"error: out={tmp_path} cannot be written: Is a directory\n")
