"""The 19 corruptions: against SciPy, scikit-image, Pillow and closed forms; the same in every batch."""
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data as photographs
from skimage.color import rgb2hsv
from skimage.filters import gaussian
from skimage.util import random_noise

from vision import corruptions
from vision.corruption_blur import disk, exchange, streaked, zoomed
from vision.corruption_draws import Draws
from vision.corruption_noise import poisson_counts
from vision.corruption_weather import plasma
from vision.corruptions import CORRUPTIONS, SEVERITIES, corrupt, fitting, sheet

EXTRA = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
# Not monotone by their published constants: elastic, what changes kind on the way (gray, then colorful; water, then mud), and
# frost, whose image and texture change shares.
UNORDERED = {"elastic_transform", "saturate", "spatter", "frost"}


def photos(side: int, channels: int = 3) -> torch.Tensor:
    """Four photographs.  → 4,C,side,side uint8"""
    found = [photographs.astronaut(), photographs.chelsea(), photographs.coffee(), photographs.astronaut()[::-1]]
    images = np.stack([np.asarray(Image.fromarray(one).resize((side, side))) for one in found]).transpose(0, 3, 1, 2)
    if channels != 3:
        images = np.concatenate([images, images[:, ::-1]], 1)[:, :channels]
    return torch.from_numpy(np.ascontiguousarray(images))


def draws(count: int = 1, severity: int = 1, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(count), 0, severity)


def change(images: torch.Tensor, name: str, severity: int) -> float:
    """Mean squared change; of fog, which darkens or brightens by chance, what is lost of the correlation with the image."""
    out = corrupt(images, torch.arange(len(images)), name, severity).float().flatten(1).numpy()
    x = images.float().flatten(1).numpy()
    if name == "fog":
        return 1 - float(np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(out, x, strict=True)]))
    return float(np.square(out - x).mean())


def test_there_are_fifteen_and_four():
    assert {name for name, one in CORRUPTIONS.items() if one.extra} == EXTRA
    assert len(CORRUPTIONS) == 19
    assert {len(table) for one in CORRUPTIONS.values() for table in (one.small, one.large)} == {5}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 96])
def test_an_image_is_corrupted_alike_in_every_batch(name, side):
    images, indices = photos(side), torch.tensor([7, 2, 900, 3])
    together = corrupt(images, indices, name, 3, seed=5)
    assert together.dtype == torch.uint8
    assert together.shape == images.shape
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(corrupt(images[order], indices[order], name, 3, seed=5), together[order])
    alone = torch.cat([corrupt(images[i : i + 1], indices[i : i + 1], name, 3, seed=5) for i in range(4)])
    assert torch.equal(alone, together)
    assert not torch.equal(together, images)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - UNORDERED))
@pytest.mark.parametrize("side", [32, 96])
def test_each_severity_changes_more(name, side):
    images = photos(side).repeat(6, 1, 1, 1)
    if side == 32 and name == "glass_blur":
        return  # a larger σ hides what one pass exchanges, and the fourth severity has a smaller σ and two passes
    severities = (1, 2, 3, 5) if side == 32 and name == "motion_blur" else SEVERITIES  # σ is 2 at the third and the fourth
    found = [change(images, name, severity) for severity in severities]
    assert found == sorted(found), found
    assert found[0] > 0


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"}))
def test_seed_image_and_severity_have_their_own_numbers(name):
    images = photos(96)[:1].expand(2, -1, -1, -1)
    one, other = corrupt(images, torch.tensor([0, 1]), name, 2)
    assert not torch.equal(one, other)
    assert not torch.equal(corrupt(images, torch.tensor([0, 1]), name, 2, seed=1)[0], one)
    first, second = (Draws(0, torch.tensor([0]), 3, severity).uniform(0, 100) for severity in (1, 2))
    assert not (first == second).any()
    assert not (first == Draws(0, torch.tensor([0]), 4, 1).uniform(0, 100)).any()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_and_types(channels, dtype):
    images = photos(32, channels)[:2]
    images = images if dtype == torch.uint8 else images.float() / 255
    for name in fitting(channels):
        out = corrupt(images, torch.arange(2), name, 5)
        assert out.dtype == dtype
        assert out.shape == images.shape
        if dtype == torch.float32:
            assert 0 <= out.min() <= out.max() <= 1
    absent = {1: {"saturate"}, 3: set(), 5: {"saturate", "snow", "frost", "spatter"}}[channels]
    assert set(CORRUPTIONS) - set(fitting(channels)) == absent
    for name in absent:
        with pytest.raises(ValueError, match=f"corruption {name}: needs .*, and these have {channels} channels"):
            corrupt(images, torch.arange(2), name, 1)


def test_tiny_blank_and_wrong_input():
    for pixels in (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 12), 255, dtype=torch.uint8)):
        for name in fitting(pixels.shape[1]):
            assert corrupt(pixels, torch.arange(len(pixels)), name, 5).shape == pixels.shape
    assert len(corrupt(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.arange(0), "snow", 1)) == 0
    with pytest.raises(ValueError, match="corruption snoww: there are gaussian_noise, "):
        corrupt(pixels, torch.arange(1), "snoww", 1)
    with pytest.raises(ValueError, match="severity 6: must be 1, 2, 3, 4 or 5"):
        corrupt(pixels, torch.arange(1), "snow", 6)


# ------------------------------------------------------------------------------------------------------------------- oracles


@pytest.mark.parametrize(("name", "mode", "options"), [
    ("gaussian_noise", "gaussian", {"var": 0.10**2}), ("impulse_noise", "s&p", {"amount": 0.07}),
    ("speckle_noise", "speckle", {"var": 0.2**2}),
])  # fmt: skip
def test_noise_has_the_distribution_of_scikit_images(name, mode, options):
    """Kolmogorov and Smirnov's test of 30,000 values that are far from 0 and 1, at a level of 10⁻⁴."""
    gray = torch.full((1, 3, 64, 64), 128 / 255)
    ours = corrupt(gray.expand(3, -1, -1, -1), torch.arange(3), name, 5).numpy().ravel()
    theirs = random_noise(np.full(40_000, 128 / 255), mode, rng=0, **options)
    assert stats.ks_2samp(np.round(ours * 255), np.round(theirs * 255)).pvalue > 1e-4


def test_normal_numbers_are_normal_and_counts_are_poissons():
    drawn = draws(4).normal(0, 5_000)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-4
    rng = np.random.default_rng(0)
    mean, u = rng.integers(0, 256, 3_000) / 255 * 60, rng.random(3_000)
    mean[:5], u[:5] = [0, 0, 500, 500, 1e-3], [1e-9, 1 - 1e-9, 1e-9, 1 - 1e-9, 0.5]
    assert np.array_equal(poisson_counts(mean, u), stats.poisson.ppf(u, mean))
    many = rng.random(5_000)  # more levels than are tabulated
    assert np.array_equal(poisson_counts(many, u.repeat(2)[:5_000]), stats.poisson.ppf(u.repeat(2)[:5_000], many))


def test_gaussian_blur_is_scikit_images():
    images = photos(48)
    theirs = np.stack([gaussian(one.numpy() / 255, sigma=0.8, channel_axis=0) for one in images])
    ours = corrupt(images, torch.arange(4), "gaussian_blur", 4).numpy()
    assert np.abs(ours - theirs * 255).max() <= 0.51


def test_a_disk_blurs_a_point_into_itself():
    for radius, smoothing in ((0.3, 0.4), (3, 0.1), (10, 0.5)):
        kernel = disk(radius, smoothing)
        assert kernel.sum() == pytest.approx(1)
        assert np.allclose(kernel, kernel.T)
        assert (kernel > 1e-4).sum() >= np.pi * radius**2 * 0.8
    point = torch.zeros(1, 1, 65, 65)
    point[0, 0, 32, 32] = 1
    out = corrupt(point, torch.arange(1), "defocus_blur", 1)[0, 0].numpy()
    assert np.allclose(out[26:39, 26:39], disk(3, 0.1), atol=1e-6)


def test_streaks_lie_in_their_direction():
    point = np.zeros((3, 1, 41, 41), np.float32)
    point[:, 0, 20, 20] = 1
    flat, upright, slanted = streaked(point, 5, 3, np.array([0.0, 90.0, 45.0]))[:, 0]
    weights = np.exp(-np.arange(11) ** 2 / 18)
    assert np.allclose(flat[20, 10:21], (weights / weights.sum())[::-1], atol=1e-6)
    assert np.allclose(upright[10:21, 20], flat[20, 10:21])
    assert flat[20].sum() == pytest.approx(1)
    assert slanted.diagonal().sum() == pytest.approx(1)
    assert np.allclose(streaked(np.ones((1, 2, 9, 9), np.float32), 8, 4, np.array([-30.0])), 1, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.13, 3.0])
def test_a_zoom_is_torchs_grid_sample(factor):
    images = photos(31).float() / 255
    theta = (torch.eye(2, 3) / factor).expand(4, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    theirs = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(torch.from_numpy(zoomed(images.numpy(), factor)), theirs, atol=1e-5)


def test_glass_exchanges_pixels():
    x = np.arange(2 * 81, dtype=np.float32).reshape(1, 2, 9, 9)
    offsets = np.floor(draws().uniform(0, 2, 9, 9, 2) * 4).astype(np.int64) - 2
    out = x.copy()
    exchange(out, offsets, 2)
    assert np.array_equal(np.sort(out[0, 0].ravel()), x[0, 0].ravel())  # none is lost
    assert np.array_equal(out[0, 1] - out[0, 0], x[0, 1] - x[0, 0])  # channels go together
    rows = np.abs(out[0, 0] // 9 - np.arange(9)[:, None])
    assert rows.max() > 0
    assert offsets.min() == -2
    assert offsets.max() == 1


def test_jpeg_and_pixelate_are_pillows():
    image = photos(48)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    ours = corrupt(image[None], torch.arange(1), "jpeg_compression", 4)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ours, np.asarray(Image.open(buffer)))
    small = picture.resize((int(48 * 0.65), int(48 * 0.65)), Image.Resampling.BOX).resize((48, 48), Image.Resampling.BOX)
    ours = corrupt(image[None], torch.arange(1), "pixelate", 5)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ours, np.asarray(small))


def test_brightness_contrast_and_saturation_by_their_formulas():
    images = photos(40).float() / 255
    before = rgb2hsv(images.numpy(), channel_axis=1)
    after = rgb2hsv(corrupt(images, torch.arange(4), "brightness", 5).numpy(), channel_axis=1)
    assert np.allclose(after[:, 2], (before[:, 2] + 0.3).clip(0, 1), atol=1e-5)
    colored = before[:, 1] * before[:, 2] > 0.02
    assert np.allclose(after[:, 1][colored], before[:, 1][colored], atol=1e-3)
    saturated = rgb2hsv(corrupt(images, torch.arange(4), "saturate", 4).numpy(), channel_axis=1)
    assert np.allclose(saturated[:, 1][colored], (before[:, 1][colored] * 2 + 0.1).clip(0, 1), atol=1e-3)
    flat = corrupt(images, torch.arange(4), "contrast", 2).numpy()
    mean = images.numpy().mean((2, 3))
    assert np.allclose(flat.mean((2, 3)), mean, atol=1e-5)
    assert np.allclose(flat.std((2, 3)), images.numpy().std((2, 3)) / 2, atol=1e-5)


def test_fog_keeps_the_brightest_value_and_plasma_is_clouds():
    clouds = plasma(draws(3), 0, 64, 2.0)
    assert clouds.shape == (3, 64, 64)
    assert clouds.min((1, 2)).tolist() == [0, 0, 0]
    assert clouds.max((1, 2)).tolist() == [1, 1, 1]
    rough = plasma(draws(3), 0, 64, 1.2)
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(clouds)).mean()  # a slower decay is rougher
    images = photos(48).float() / 255
    out = corrupt(images, torch.arange(4), "fog", 3)
    assert (out.amax((1, 2, 3)) <= images.amax((1, 2, 3)) + 1e-5).all()


def test_the_affine_part_moves_its_three_points_where_cv2_does(monkeypatch):
    """No elastic part at small images' first severity: the rest is OpenCV's warpAffine with the same three points."""
    side = 64
    image = gaussian(photographs.camera()[:side, :side], 2).astype(np.float32)
    ours = corrupt(torch.from_numpy(image)[None, None], torch.tensor([4]), "elastic_transform", 1)[0, 0].numpy()
    number = list(CORRUPTIONS).index("elastic_transform")
    moves = (Draws(0, torch.tensor([4]), number, 1).uniform(0, 3, 2)[0] * 2 - 1) * 0.08 * side
    corners = np.array([[32 + 21, 32 + 21], [32 - 21, 32 + 21], [32 - 21, 32 - 21]], np.float32)
    matrix = cv2.getAffineTransform(corners[:, ::-1].astype(np.float32), (corners + moves)[:, ::-1].astype(np.float32))
    theirs = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    assert np.abs(ours - theirs).max() < 0.02  # OpenCV rounds places to 1/32 of a pixel


def test_the_sheet_has_a_row_a_corruption(monkeypatch, capsys, tmp_path):
    page = Image.open(io.BytesIO(sheet(photos(8)[0], 0)))
    assert page.size == (corruptions.NAMES + 6 * (64 + 4), 19 * (64 + 4) + 4)
    monkeypatch.setattr("sys.argv", ["x", "--data", "digits", "--out", str(tmp_path / "a.png")])
    assert corruptions.main() == 0
    assert "without saturate" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["x", "--data", "digits", "--image", "99999", "--out", str(tmp_path / "a.png")])
    assert corruptions.main() == 2
    assert "image=99999: there are " in capsys.readouterr().err
