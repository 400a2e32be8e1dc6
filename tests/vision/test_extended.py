"""The operations that are off by default equal torchvision's functional ones, and the compiled ones equal the batched ones.

TOLERANCE: as in test_augment.py. WARPED: a sampling place is rounded by S · 6e-8 pixels in float32, and noise changes by up to
1 from one pixel to the next, in two directions. CHAIN: four times that, by normalization.
"""
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from core import counter_rng, identity
from vision import bands, policy, warp
from vision.augment import Augmentation, picture, render, render_by_torch
from vision.policy import OPERATIONS, POLICIES, RANDAUGMENT, TRIVIALAUGMENT
from vision.view import View
from vision.view_params import ExtendedParams, ViewParams, concatenate, extend

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE, WARPED, CHAIN = 1e-5, 1e-4, 4e-4
QUIET = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0, "crop": [1.0, 1.0], "ratio": [1.0, 1.0]}
BANDS = {"gain": 0.3, "offset": 0.1, "gamma": [0.7, 1.5], "noise": 0.1}
GEOMETRY = {"vflip": 0.5, "turns": 1.0}
BILINEAR = v2.InterpolationMode.BILINEAR


def noise(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Images with flat and saturated parts."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-60, 316, (count, channels, size, size), generator=generator).clamp(0, 255)
    images[::3, :, : size // 2] = images[::3, :1, : size // 2]
    return images.to(torch.uint8)


def sampled(count: int, size: int, **settings) -> ExtendedParams:
    params = View(size, **(QUIET | settings)).sample_params(3, 1, torch.arange(count), 0, size, size)
    assert isinstance(params, ExtendedParams)
    return params


def both(images: torch.Tensor, params: ViewParams) -> tuple[torch.Tensor, torch.Tensor]:
    """The view by the compiled code and by torch, in [0, 1]: nothing is normalized."""
    channels, size = images.shape[1], images.shape[2]
    given = images, params, size, torch.zeros(channels), torch.ones(channels), True
    return render(*given), render_by_torch(*given)


# ------------------------------------------------------------------------------------------------ equal to torchvision


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_vertical_flips_and_quarter_turns(channels):
    images, params = noise(64, channels, 12), sampled(64, 12, **GEOMETRY)
    assert len({(v, t) for v, t in zip(params.vflip.tolist(), params.turns.tolist(), strict=True)}) == 8
    expected = []
    for image, flipped, count in zip(images.float() / 255, params.vflip, params.turns.tolist(), strict=True):
        image = F.vertical_flip(image) if flipped else image
        expected.append(F.rotate(image, 90.0 * count))
    for got in both(images, params):
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 8, 32, 96])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_rotation(size, channels):
    images, params = noise(12, channels, size), sampled(12, size, rotate=180.0)
    angles = params.angle[:, 0].tolist()
    expected = [F.rotate(image, angle, BILINEAR) for image, angle in zip(images / 255, angles, strict=True)]
    for got in both(images, params):
        torch.testing.assert_close(got, torch.stack(expected), atol=WARPED, rtol=0)


def by_torchvision(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    return v2.RandAugment()._apply_image_or_video_transform(image, name, magnitude, BILINEAR, {torch.Tensor: None})


def jumps(before: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    """Where rounding chooses the side of a step: there pixels are not compared."""
    if name == "Solarize":
        return (before - magnitude).abs() < 1e-6
    levels = before * 2**magnitude if name == "Posterize" else before * policy.TO_BYTE
    return (levels - levels.round()).abs() < 1e-4 if name in ("Posterize", "Equalize") else torch.zeros_like(before).bool()


@pytest.mark.parametrize("kind", [RANDAUGMENT, TRIVIALAUGMENT])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_of_a_policy_at_every_magnitude(kind, name, channels):
    size, op = 32, OPERATIONS.index(name)
    values = policy.magnitude_table(kind, size)[op]
    values = torch.cat([values, -values]) if policy.FIRST_WARP <= op <= policy.LAST_BLEND else values
    images = noise(len(values), channels, size)
    images[1] = 90  # no contrast, nothing to equalize
    ops = torch.full((len(values), 1), op)
    params = extend(View(size, **QUIET).sample_params(0, 0, ops[:, 0], 0, size, size), ops=ops, magnitudes=values[:, None])
    for got in both(images, params):
        for row, image, magnitude in zip(got, images.float() / 255, values.tolist(), strict=True):
            expected = by_torchvision(image, name, magnitude)
            unfair = jumps(image, name, magnitude) & (image > 0) & (image < 1)
            difference = (row - expected).abs().masked_fill(unfair, 0)
            assert difference.max() < (WARPED if policy.FIRST_WARP <= op <= policy.LAST_WARP else TOLERANCE)
            assert unfair.float().mean() < 0.1


@pytest.mark.parametrize(("kind", "official"), [(RANDAUGMENT, v2.RandAugment), (TRIVIALAUGMENT, v2.TrivialAugmentWide)])
@pytest.mark.parametrize("size", [8, 32, 224, 331])
def test_magnitudes_are_torchvisions(kind, official, size):
    space = official._AUGMENTATION_SPACE
    assert tuple(space) == OPERATIONS
    for row, (name, (magnitudes, signed)) in zip(policy.magnitude_table(kind, size), space.items(), strict=True):
        expected = magnitudes(policy.BINS, size, size)
        expected = torch.zeros(policy.BINS) if expected is None else expected.float()
        expected = expected.trunc() if name.startswith("Translate") else expected  # torchvision's int(magnitude)
        assert torch.equal(row, expected), name
        assert signed == (policy.FIRST_WARP <= OPERATIONS.index(name) <= policy.LAST_BLEND)


@pytest.mark.parametrize("channels", [1, 2, 3, 13, 32])
def test_levels_of_each_channel(channels):
    images = noise(24, channels, 16)
    x = images.float() / 255
    params = sampled(24, 16, gain=0.3, offset=0.2)
    expected = (x * params.gain[:, :channels, None, None] + params.offset[:, :channels, None, None]).clamp(0, 1)
    for got in both(images, params):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    params = sampled(24, 16, gamma=[0.5, 2.0])
    expected = torch.stack([F.adjust_gamma(one, gamma) for one, gamma in zip(x, params.gamma[:, 0].tolist(), strict=True)])
    for got in both(images, params):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_noise_is_normal_and_its_own_for_each_image_and_view(channels):
    images = torch.full((40, channels, 32, 32), 128, dtype=torch.uint8)
    view = View(32, **QUIET, noise=0.1)
    params = [view.sample_params(0, epoch, torch.arange(40), stream, 32, 32) for epoch, stream in ((0, 0), (0, 1), (1, 0))]
    drawn = []
    for p in params:
        compiled, batched = both(images, p)
        torch.testing.assert_close(compiled, batched, atol=1e-6, rtol=0)
        drawn.append((batched - 128 / 255) / p.noise[:, :, None, None])
    values = torch.stack(drawn).flatten(2)  # 3,40,C*S*S
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(values.flatten(0, 1).numpy()) - np.eye(120)
    assert abs(correlation).max() < 5.5 / values.shape[2] ** 0.5  # 7140 pairs


def test_noise_of_one_image_is_that_of_philox():
    key = counter_rng.random_bits(7, 0, torch.arange(3), 0, 2)
    normal = bands.standard_normal(key, 10)
    assert normal.shape == (3, 10)
    word = counter_rng.philox(tuple(torch.tensor([v]) for v in (2, 0, 0, 0)), tuple(key[1].tolist()))  # block 2: numbers 8 …
    u = [(w.item() >> 8) * 2.0**-24 + 2.0**-25 for w in word[:2]]
    expected = (-2 * np.log(u[0])) ** 0.5 * np.array([np.cos(2 * np.pi * u[1]), np.sin(2 * np.pi * u[1])])
    np.testing.assert_allclose(normal[1, 8:].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 3, 13, 32])
def test_dropped_channels_are_zero_after_normalization_and_one_stays(channels):
    images, params = noise(400, channels, 4), sampled(400, 4, drop_channel=0.5)
    mean, std = torch.linspace(0.3, 0.6, channels), torch.linspace(0.2, 0.3, channels)
    plain = render_by_torch(images, replace(params, drop_margin=params.drop_margin[:, :0]), 4, mean, std, True)
    kept = bands.kept_channels(params.drop_margin, channels)
    assert kept.any(1).all()
    share = 0.5 - 0.5**channels / channels  # all are dropped with probability 0.5**C, and then one comes back
    assert abs((~kept).float().mean() - share) < 4 * (0.25 / kept.numel()) ** 0.5
    for by in (render, render_by_torch):
        torch.testing.assert_close(by(images, params, 4, mean, std, True), plain * kept[:, :, None, None], atol=2e-5, rtol=0)


# ------------------------------------------------------------------------------------------- compiled and batched agree

CONTINUOUS = [op for op, name in enumerate(OPERATIONS) if name not in ("Posterize", "Solarize", "Equalize")]
SETTINGS = {
    "sides": GEOMETRY | {"rotate": 30.0, "flip": 0.5},
    "bands": GEOMETRY | BANDS | {"drop_channel": 0.3},
    "all": GEOMETRY | BANDS | {"flip": 0.5, "rotate": 90.0, "jitter": 0.8, "saturation": 0.0, "hue": 0.0, "blur": 0.5},
    "color": GEOMETRY | {"policy": RANDAUGMENT, "jitter": 0.8, "grey": 0.5, "blur": 0.5, "noise": 0.05, "gain": 0.2},
}


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 8), (40, 70, 32), (150, 120, 96)])
@pytest.mark.parametrize(("settings", "channels"), [(s, c) for s in SETTINGS for c in (1, 3, 13) if s != "color" or c < 4])
def test_whole_chains(settings, channels, height, width, size):
    params = View(size, **(QUIET | SETTINGS[settings])).sample_params(3, 1, torch.arange(32), 0, height, width)
    if params.ops.shape[1]:
        continuous = torch.tensor(CONTINUOUS)[params.ops % len(CONTINUOUS)]
        magnitudes = policy.magnitude_table(RANDAUGMENT, size)[continuous, 9]
        params = replace(params, ops=continuous, magnitudes=magnitudes)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (32, channels, height, width), generator=generator).to(torch.uint8)
    given = images, params, size, torch.full((channels,), 0.5), torch.full((channels,), 0.25)
    got, expected = render(*given), render_by_torch(*given)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, atol=CHAIN, rtol=0)


def test_images_of_many_bands_have_the_operations_of_old():
    """Crop, flip, brightness, contrast, blur and solarization of 13 channels."""
    view = View(32, jitter=1.0, saturation=0.0, hue=0.0, grey=0.0)
    params = view.sample_params(0, 0, torch.arange(20), 0, 50, 40)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (20, 13, 50, 40), generator=generator).to(torch.uint8)
    given = images, params, 32, torch.full((13,), 0.5), torch.full((13,), 0.25)
    torch.testing.assert_close(render(*given), render_by_torch(*given), atol=2e-5, rtol=0)


def test_threads_and_cuts_give_the_same_bits():
    images, params = noise(40, 3, 32), sampled(40, 32, **GEOMETRY, **BANDS, policy=TRIVIALAUGMENT, rotate=20.0)
    mean = std = torch.full((3,), 0.5)
    before, made = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made.append(render(images, params, 32, mean, std))
        made.append(torch.cat([render(images[rows], params[rows], 32, mean, std) for rows in (slice(0, 7), slice(7, None))]))
    torch.set_num_threads(before)
    assert all(torch.equal(made[0], other) for other in made[1:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("settings", "channels"), [("all", 3), ("all", 13), ("bands", 13), ("color", 3)])
def test_cuda_and_cpu_agree(settings, channels):
    images, indices = noise(64, channels, 32), torch.arange(64)
    augmentation = Augmentation(32, (0.5,) * channels, (0.25,) * channels, 1, **(QUIET | SETTINGS[settings]))
    (here,), (there,) = (augmentation.sample_params(0, 0, i, 32, 32) for i in (indices, indices.cuda()))
    for name in ("vflip", "turns", "ops", "noise_key"):  # integers alone decide these
        assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name
    if here.ops.shape[1]:
        continuous = torch.tensor(CONTINUOUS)[here.ops % len(CONTINUOUS)]
        here = replace(here, ops=continuous, magnitudes=policy.magnitude_table(RANDAUGMENT, 32)[continuous, 9])
    (one,), (two,) = augmentation.render(images, [here]), augmentation.render(images.cuda(), [here])
    torch.testing.assert_close(one, two.cpu(), atol=CHAIN, rtol=0)


# ------------------------------------------------------------------------------------------------------------- sampling


def test_what_was_drawn_before_is_drawn_still():
    indices = torch.arange(50)
    plain = View(32).sample_params(5, 2, indices, 1, 40, 50)
    extended = View(32, **GEOMETRY, **BANDS, rotate=10.0, policy=RANDAUGMENT, drop_channel=0.1)
    more = extended.sample_params(5, 2, indices, 1, 40, 50)
    assert type(plain) is ViewParams
    for name in ViewParams.__dataclass_fields__:
        assert torch.equal(getattr(plain, name), getattr(more, name)), name
    assert torch.equal(plain.boxes(), more.boxes())


def test_an_operation_draws_the_same_whatever_else_is_on():
    alone = {name: sampled(30, 16, **{name: value}) for name, value in (GEOMETRY | BANDS | {"rotate": 9.0}).items()}
    alone["drop_channel"], alone["policy"] = sampled(30, 16, drop_channel=0.2), sampled(30, 16, policy=RANDAUGMENT)
    together = sampled(30, 16, **GEOMETRY, **BANDS, rotate=9.0, policy=RANDAUGMENT, drop_channel=0.2)
    fields = {"vflip": "vflip", "turns": "turns", "rotate": "angle", "gamma": "gamma", "noise": "noise", "gain": "gain",
              "offset": "offset", "drop_channel": "drop_margin", "policy": "ops"}  # fmt: skip
    for name, field in fields.items():
        assert torch.equal(getattr(alone[name], field), getattr(together, field)), name


def test_probabilities_and_ranges():
    many = 20_000
    levels = {"gain": 0.4, "offset": 0.1, "gamma": [0.5, 2.0], "noise": 0.2}
    p = sampled(many, 32, vflip=0.3, turns=0.8, rotate=30.0, policy=TRIVIALAUGMENT, **levels)
    assert abs(p.vflip.float().mean() - 0.3) < 4 * (0.21 / many) ** 0.5
    counts = torch.bincount(p.turns, minlength=4)
    assert stats.chisquare(counts.numpy(), many * np.array([0.4, 0.2, 0.2, 0.2])).pvalue > 1e-3
    uniform = {"angle": (-30, 60), "gain": (0.6, 0.8), "offset": (-0.1, 0.2), "noise": (0, 0.2)}
    for name, args in uniform.items():
        assert stats.kstest(getattr(p, name)[:, -1].numpy(), "uniform", args=args).pvalue > 1e-3, name
    assert stats.kstest(p.gamma[:, 0].log2().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(p.ops[:, 0]).numpy()).pvalue > 1e-3
    rotated = p.magnitudes[p.ops == policy.ROTATE]
    assert len(rotated.unique()) == 2 * policy.BINS - 1  # every bin with both signs
    drawn = [p.vflip, p.turns, p.angle[:, 0], p.ops[:, 0], p.gain[:, 0], p.gain[:, 1], p.offset[:, 0], p.gamma[:, 0],
             p.noise[:, 0], *p.noise_key.T, p.sigma, p.factors[:, 0]]  # fmt: skip
    correlation = stats.spearmanr(torch.stack([x.double() for x in drawn], dim=1).numpy()).statistic
    assert abs(correlation - torch.eye(len(drawn)).numpy()).max() < 4 / many**0.5


def test_groups_of_images_are_joined_and_travel():
    parts = [sampled(n, 16, **GEOMETRY, **BANDS, policy=RANDAUGMENT) for n in (3, 4)]
    joined = concatenate(list(parts))
    assert isinstance(joined, ExtendedParams)
    assert all(torch.equal(getattr(joined[3:], f), getattr(parts[1], f)) for f in ExtendedParams.__dataclass_fields__)
    there_and_back = joined.map(torch.Tensor.numpy).map(torch.as_tensor)
    assert all(torch.equal(getattr(there_and_back, f), getattr(joined, f)) for f in ExtendedParams.__dataclass_fields__)


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("settings", "message"), [
    ({"vflip": 1.5}, "augment.vflip=1.5: a probability"),
    ({"turns": -1}, "augment.turns=-1: a probability"),
    ({"rotate": 200}, "augment.rotate=200: an angle of 0 to 180"),
    ({"policy": "autoaugment"}, "augment.policy=autoaugment: must be one of none, randaugment, trivialaugment"),
    ({"policy": None}, "augment.policy=None: must be one of"),
    ({"policy_n": 0}, "augment.policy_n=0: a whole number of operations"),
    ({"policy_n": 1.5}, "augment.policy_n=1.5: a whole number of operations"),
    ({"policy_magnitude": 31}, "augment.policy_magnitude=31: a whole number from 0 to 30"),
    ({"gain": -0.1}, "augment.gain=-0.1: cannot be negative"),
    ({"offset": float("nan")}, "augment.offset=nan: cannot be negative"),
    ({"noise": "some"}, "augment.noise=some: needs a number"),
    ({"gamma": 2.0}, "augment.gamma=2.0: needs two numbers"),
    ({"gamma": [0.0, 1.0]}, r"augment.gamma=\[0.0, 1.0\]: needs 0 < smallest"),
    ({"drop_channel": 0.1}, "augment.drop_channel=0.1: these images have one channel"),
])
def test_mistakes_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Augmentation(32, (0.5,), (0.25,), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_color_operations_are_refused_where_there_is_no_color(channels):
    mean = (0.5,) * channels
    off = {"saturation": 0.0, "hue": 0.0, "grey": 0.0}
    Augmentation(16, mean, mean, **off)
    for name, value in (("saturation", 0.4), ("hue", 0.1), ("grey", 0.2), ("policy", RANDAUGMENT)):
        reason = f"augment.{name}={value}: acts on gray or color images, of 1 or 3 channels; these have {channels}"
        with pytest.raises(ValueError, match=reason):
            Augmentation(16, mean, mean, **(off | {name: value}))
    Augmentation(16, mean, mean, **(off | {"jitter": 0.0, "hue": 0.1}))  # which is never applied
    own = {"views": 1, "size": 0.5, "grey": 0.5}
    with pytest.raises(ValueError, match=r"augment.grey=0.5: acts on gray or color"):
        Augmentation(16, mean, mean, local=own, **off)


@pytest.mark.parametrize("channels", [1, 3, 13, 32])
def test_the_choice_for_bands_takes_any_number_of_channels(channels):
    settings = yaml.safe_load((ROOT / "vision/config/augment/bands.yaml").read_text())
    augmentation = Augmentation(16, (0.5,) * channels, (0.25,) * channels, **settings)
    images = noise(6, channels, 20)
    views = augmentation.render(images, augmentation.sample_params(0, 0, torch.arange(6), 20, 20))
    assert all(view.shape == (6, channels, 16, 16) and view.isfinite().all() for view in views)
    assert not torch.equal(*views)


def test_a_list_gives_each_view_its_own():
    augmentation = Augmentation(16, (0.5,) * 3, (0.25,) * 3, policy=["none", TRIVIALAUGMENT], gamma=[[1.0, 1.0], [0.5, 2.0]])
    first, second = augmentation.sample_params(0, 0, torch.arange(3), 16, 16)
    assert type(first) is ViewParams
    assert isinstance(second, ExtendedParams)
    assert (second.ops.shape, second.gamma.shape) == ((3, 1), (3, 1))


def test_older_runs_keep_their_identity():
    names = [name for name in View.__dataclass_fields__ if f"augment.{name}" in identity.ORIGINAL_DEFAULTS]
    assert names == list(itertools.dropwhile(lambda name: name != "vflip", View.__dataclass_fields__))
    for name in names:
        default = View.__dataclass_fields__[name].default
        default = list(default) if isinstance(default, tuple) else default
        assert identity.ORIGINAL_DEFAULTS[f"augment.{name}"] == default
    assert POLICIES[0] == identity.ORIGINAL_DEFAULTS["augment.policy"]
    settings = yaml.safe_load((ROOT / "vision/config/augment/classify.yaml").read_text())
    assert not set(names) & set(identity.without_defaults("augment", settings))  # of a teacher's cache
    assert identity.without_defaults("augment", settings | {"turns": 1.0})["turns"] == 1.0


def test_picture_of_many_channels_shows_three(tmp_path):
    augmentation = Augmentation(16, (0.5,) * 13, (0.25,) * 13, **(QUIET | GEOMETRY | BANDS))
    assert picture(noise(4, 13, 16), augmentation).startswith(b"\x89PNG")


def test_boxes_describe_the_crop_whatever_turns_it():
    turned, plain = sampled(9, 16, **GEOMETRY, rotate=45.0), View(16, **QUIET).sample_params(3, 1, torch.arange(9), 0, 16, 16)
    assert torch.equal(turned.boxes(), plain.boxes())
    assert warp.rotation(torch.tensor([90.0]))[0].round(decimals=6).tolist() == [[0, -1, 0], [1, 0, 0]]
