"""Features: what the frozen encoder gives, once, the same by any number of processes, and the encoder untouched by it."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from processes import on
from torch import nn
from torch.nn import functional as F

from core.processes import rank
from linear_eval import features
from linear_eval.features import Source, collect, evaluating, of_encoder, pixels_of
from vision import datasets, encoders
from vision.pixels import normalize_images
from vision.splits import Images

CPU, MEAN, STD = torch.device("cpu"), torch.tensor([0.3]), torch.tensor([0.4])


def encoder(name: str = "test_resnet", size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    module = encoders.create(name, 1, size)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):  # statistics that training would have left
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def split(count: int = 70, size: int = 16, labelled: bool = True) -> Images:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return Images(images, torch.arange(count) % 7 if labelled else None)


def test_they_are_the_encoders_in_half_precision(monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 32)
    module, images = encoder(), split()
    found = collect(of_encoder("encoder", module, MEAN, STD, CPU), images, CPU)
    x = (images.images.float() / 255 - 0.3) / 0.4
    with torch.no_grad():
        expected = module.eval()(x)
    np.testing.assert_allclose(found.pooled, expected, rtol=2**-10, atol=1e-4)  # float16 has 11 bits
    assert found.x.dtype == np.float16
    assert found.labels.tolist() == images.labels.tolist()


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "test_vit", "convnext_atto", "lenet5"])
def test_the_maps_are_pooled_beside_the_output(name):
    """Against hooks on timm's own stages: of a convolutional encoder means and maxima, of a transformer tokens and means."""
    size = 32
    module = encoder(name, size).eval()
    seen = {}
    stages = [info["module"] for info in module.feature_info][-features.BLOCKS :]
    for stage in stages:
        module.get_submodule(stage).register_forward_hook(lambda _, __, out, stage=stage: seen.__setitem__(stage, out))
    images = split(9, size)
    found = collect(of_encoder("x", module, MEAN, STD, CPU), images, CPU)
    with torch.no_grad():
        output = module(normalize_images(images.images, MEAN, STD))
    maps = [seen[stage] for stage in reversed(stages)]
    if name == "test_vit":
        with torch.no_grad():
            maps = [module.norm(m) for m in maps]
        first, second = [m[:, 0] for m in maps], [m[:, 1:].mean(1) for m in maps]
    else:
        first, second = [m.mean((2, 3)) for m in maps], [m.amax((2, 3)) for m in maps]
    everything = torch.cat([output, *first[1:], *second], 1)

    def columns(part: str) -> np.ndarray:
        return np.concatenate([found.x[:, s] for s in found.parts[part]], 1)

    close = {"rtol": 2**-10, "atol": 2e-3}
    np.testing.assert_allclose(columns("pooled"), output, **close)
    np.testing.assert_allclose(columns("pooled+max"), torch.cat([output, second[0]], 1), **close)
    np.testing.assert_allclose(columns("last4"), torch.cat([output, *first[1:]], 1), **close)
    np.testing.assert_allclose(columns("last4+max"), everything, **close)


def test_no_bit_of_the_encoder_moves_and_its_modes_return():
    module = encoder().train()
    module.layer1.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    with evaluating(module):
        assert not module(torch.randn(4, 1, 16, 16)).requires_grad
        assert not any(m.training for m in module.modules())
    assert [m.training for m in module.modules()] == modes
    source = of_encoder("x", module, MEAN, STD, CPU)
    collect(source, split(), CPU)
    features.recompute_batchnorm(module, split().images, MEAN, STD, CPU)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_an_untrained_encoders_statistics_become_the_datas():
    module = encoders.create("test_resnet", 1, 16)
    found = features.recompute_batchnorm(module, split(300).images, MEAN, STD, CPU)
    seen = []
    first = next(m for m in found.modules() if isinstance(m, nn.BatchNorm2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with evaluating(found):
        found(normalize_images(split(300).images, MEAN, STD))
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)), rtol=0, atol=0.15)  # the last pass weighs .65


# ---- the cache


class Counted:
    """A description that says how often it was called."""

    calls = 0

    def __call__(self, images):
        self.calls += 1
        return images.flatten(1).float()


def test_cached_is_uncached_and_a_key_is_all_that_matters(tmp_path):
    counted, images = Counted(), split()
    source = Source("some", "a", counted, 16)
    one, two = collect(source, images, CPU, tmp_path), collect(source, images, CPU, tmp_path)
    assert counted.calls == 1
    assert isinstance(two.x, np.memmap)
    assert np.array_equal(one.x, two.x)
    assert np.array_equal(two.x, collect(source, images, CPU).x)
    counted.calls = 0
    others = [
        (Source("some", "b", counted, 16), images),
        (Source("some", "a", counted, 8), images),
        (Source("some", "a", counted, 16, dtype="float32"), images),
        (Source("some", "a", counted, 16), images.select(torch.arange(69, -1, -1))),
    ]
    for source, images in others:
        collect(source, images, CPU, tmp_path)
    assert counted.calls == len(others)
    assert not list(tmp_path.glob(".*"))


def test_another_weight_or_input_is_another_key():
    module = encoder()
    keys = [of_encoder("x", module, MEAN, STD, CPU).key, of_encoder("x", module, MEAN + 0.1, STD, CPU).key]
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1e-6
    keys.append(of_encoder("x", module, MEAN, STD, CPU).key)
    assert len(set(keys)) == 3


@pytest.mark.parametrize("harm", ["cut", "emptied", "without its page"])
def test_a_cached_file_that_is_not_whole_is_made_anew(tmp_path, harm):
    source, images = Source("some", "a", Counted(), 16), split()
    whole = np.array(collect(source, images, CPU, tmp_path).x)
    (path,) = tmp_path.glob("*.npy")
    if harm == "without its page":
        path.with_suffix(".json").unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if harm == "cut" else 0])
    assert np.array_equal(collect(source, images, CPU, tmp_path).x, whole)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    import errno

    from core.errors import DiskFull

    def full(images):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="no room to write"):
        collect(Source("some", "a", full, 16), split(), CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- folders, processes


def test_a_changed_file_is_another_key_and_an_unreadable_one_no_row(tmp_path):
    root = tmp_path / "images"
    for i in range(8):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 20 * i, np.uint8)).save(path)
    train = datasets.load("folder", str(root), validation=0).train
    before = train.fingerprint()
    source = Source("some", "a", pixels_of, 4)
    assert len(collect(source, train, CPU, tmp_path / "cache").x) == len(train)
    train.path(2).write_bytes(b"no picture")
    train.max_corrupt = 0.5
    assert train.fingerprint() != before
    for _ in range(2):  # as found, and as kept
        found = collect(source, train, CPU, tmp_path / "cache")
        assert found.indices.tolist() == [i for i in range(len(train)) if i != 2]
        assert found.labels.tolist() == train.labels[found.indices].tolist()
    assert sorted(json.loads(p.read_text())["skipped"] for p in (tmp_path / "cache").glob("*.json")) == [[], [2]]


def _collected(folder: str, cached: bool) -> bytes | None:
    torch.set_num_threads(1)
    features.BLOCK = 16
    found = collect(of_encoder("x", encoder(), MEAN, STD, CPU), split(70), CPU, None if not cached else features.Path(folder))
    assert (found is None) == (rank() > 0)
    return found and np.ascontiguousarray(found.x).tobytes()


@pytest.mark.parametrize("cached", [False, True])
def test_processes_leave_the_bytes_of_one(tmp_path, cached):
    """70 images in blocks of 16 are five blocks: of three processes one has one less."""
    (one,) = on(1, _collected, str(tmp_path), cached)
    shutil.rmtree(tmp_path)
    three = on(3, _collected, str(tmp_path), cached)
    assert one == three[0]
    assert three[1:] == [None, None]


def test_no_images_is_one_line():
    with pytest.raises(ValueError, match="no image"):
        collect(Source("some", "a", pixels_of, 16), Images(torch.zeros(0, 1, 16, 16, dtype=torch.uint8)), CPU)


def test_raw_pixels_are_grey_levels_averaged_to_32_pixels():
    images = split(3, 64).images
    expected = F.avg_pool2d(images.float() / 255, 2).flatten(1)
    torch.testing.assert_close(pixels_of(images), expected)
    assert torch.equal(pixels_of(split(3).images), split(3).images.flatten(1) / 255)
