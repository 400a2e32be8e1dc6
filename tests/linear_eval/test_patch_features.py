"""Patch features: what the encoder's tokens are, the same by any number of processes and after a kill, within the budget."""
import json

import numpy as np
import pytest
import torch
from processes import on
from skimage.feature import hog
from torch import nn

from linear_eval import features
from linear_eval.dense import patch_features
from linear_eval.dense.patch_features import Budget, collect_patches, grid_of, of_encoder, patch_source, whole_images
from linear_eval.dense.sources import hog_cells, raw_patches
from linear_eval.dense.store import GrowingArray
from vision import encoders
from vision.geometry import Geometry
from vision.splits import Images

CPU, MOMENTS = torch.device("cpu"), (torch.tensor([0.3]), torch.tensor([0.4]))


def encoder(name: str = "test_vit", size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return encoders.create(name, 1, size)


def split(count: int = 21, size: int = 32) -> Images:
    generator = torch.Generator().manual_seed(count)
    return Images(torch.randint(256, (count, 1, size, size), generator=generator, dtype=torch.uint8))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(patch_features, "BLOCK", 4)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_they_are_the_encoders_tokens_in_half_precision(name, tmp_path):
    module, images = encoder(name), split()
    patches = of_encoder("encoder", module, MOMENTS, Geometry(32, 32), CPU)
    found = collect_patches(patches, images, len(images), CPU, tmp_path)
    with torch.no_grad():
        tokens = module.eval().forward_features((images.images.float() / 255 - 0.3) / 0.4)
    expected = tokens[:, module.num_prefix_tokens :] if name == "test_vit" else tokens.flatten(2).mT
    assert patches.grid == grid_of(module, "encoder=x")
    np.testing.assert_allclose(found.x, expected, rtol=2**-10, atol=2e-3)
    again = collect_patches(patches, images, len(images), CPU, tmp_path)
    np.testing.assert_array_equal(again.x, found.x)


def _collected(folder: str) -> int:
    patch_features.BLOCK = 4
    found = collect_patches(of_encoder("encoder", encoder(), MOMENTS, Geometry(32, 32), CPU), split(), 21, CPU, folder)
    return 0 if found is None else len(found)


@pytest.mark.slow
def test_several_processes_leave_the_same_file(tmp_path):
    from pathlib import Path

    one, several = tmp_path / "one", tmp_path / "several"
    assert _collected(one) == 21
    assert on(2, _collected, Path(several)) == [21, 0]
    (a,), (b,) = ([*folder.glob("*/rows.npy")] for folder in (one, several))
    assert a.parent.name == b.parent.name
    np.testing.assert_allclose(np.load(a), np.load(b), atol=2e-3)  # a batch of another size, in float32


def test_a_killed_pass_resumes_behind_its_last_whole_block(tmp_path):
    images, seen = split(), []

    def describe(x):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(x))
        return x.float()[:, :, ::16, ::16]

    def patches(function):
        return patch_source("x", "", function, Geometry(32, 32), None, torch.zeros(1, 1, 2, 2))

    with pytest.raises(KeyboardInterrupt):
        collect_patches(patches(describe), images, 21, CPU, tmp_path)
    (state,) = tmp_path.glob("*/state.json")
    assert json.loads(state.read_text())["rows"] == 12
    with open(state.with_name("rows.npy"), "ab") as file:
        file.write(b"half a block")
    again = []

    def resumed(x):
        again.append(len(x))
        return x.float()[:, :, ::16, ::16]

    found = collect_patches(patches(resumed), images, 21, CPU, tmp_path)
    assert again == [4, 4, 1]
    np.testing.assert_array_equal(found.x[:, :, 0], images.images[:, 0, ::16, ::16].flatten(1).half())


def test_images_that_are_not_to_be_used_stay_out(tmp_path):
    store = GrowingArray(tmp_path / "a", (3, 2, 1))
    store.append(np.arange(6.0).reshape(3, 2), [1])
    assert (store.rows, store.skipped) == (3, [1])
    found = patch_features._features(store.read(), np.array([0, 5, 9]), [1])
    assert found.indices.tolist() == [0, 9]
    ((indices, x),) = found.blocks(8)
    assert indices.tolist() == [0, 9]
    assert x.ravel().tolist() == [0, 1, 4, 5]


def test_ten_thousand_images_at_224_px_stay_within_the_budget():
    """ViT-B/16: 196 patches of 768 in half precision are 301 kB an image, 3 GB of 10,000."""
    image = 196 * 768 * 2
    counts = {"train": 8_000, "validation": 1_000, "test": 1_000}
    assert Budget.of(counts, image, 4.0) == Budget(8_000, 1_000, True)
    budget = Budget.of(counts, image, 1.0)
    assert (budget.train, budget.validation, budget.test) == (1_660, 830, False)
    assert (budget.train + budget.validation) * image <= 10**9
    assert "1,660 of 8,000 training and 830 of 1,000 validation images" in budget.note
    assert "in passing" in budget.note
    roomy = Budget.of({"train": 8_000, "validation": 100, "test": 500}, image, 1.0)
    assert (roomy.train, roomy.validation, roomy.test) == (1_660, 100, True)
    assert (roomy.train + roomy.validation + 500) * image <= 10**9
    with pytest.raises(ValueError, match=r"budget=0.001.*0\.301 MB"):
        Budget.of(counts, image, 0.001)


def test_the_cache_is_read_in_blocks_and_mapped(tmp_path):
    found = collect_patches(of_encoder("x", encoder(), MOMENTS, Geometry(32, 32), CPU), split(), 9, CPU, tmp_path)
    assert isinstance(found.x, np.memmap)
    assert found.indices.tolist() == features.evenly(21, 9).tolist()
    assert [len(x) for _, x in found.blocks(4)] == [4, 4, 1]


def test_the_whole_image_is_seen():
    spec = encoder().spec
    assert whole_images(split(), spec) == Geometry(32, 32)
    wide = Images(torch.zeros(1, 1, 32, 64, dtype=torch.uint8))
    assert whole_images(wide, spec) == Geometry(32, 32, "squash")


@pytest.mark.parametrize("name", ["test_resnet", "lenet5"])
def test_an_encoder_without_patches_for_its_size_is_refused(name):
    with pytest.raises(ValueError, match="encoder=it"):
        grid_of(encoders.create(name, 1, 32, stem="full"), "encoder=it")


def test_hog_cells_are_scikit_images():
    """A patch whose block of 3 × 3 cells lies inside the image is described as scikit-image describes that block."""
    images = split(2, 48).images
    found = hog_cells(images, (6, 6))
    assert found.shape == (2, 81, 6, 6)
    for image, one in zip(images, found, strict=True):
        blocks = hog(image[0].numpy() / 255, 9, (8, 8), (3, 3), feature_vector=False)  # 4,4,3,3,9
        np.testing.assert_allclose(one[:, 2:4, 2:4].permute(1, 2, 0), blocks[1:3, 1:3].reshape(2, 2, 81), atol=1e-4)


def test_raw_patches_are_the_pixels():
    images = split(2, 16).images
    found = raw_patches(images, (4, 4))
    assert found.shape == (2, 16, 4, 4)
    np.testing.assert_allclose(found[0, :, 1, 2], images[0, 0, 4:8, 8:12].flatten() / 255, atol=1e-6)
    assert raw_patches(torch.zeros(1, 3, 224, 224, dtype=torch.uint8), (14, 14)).shape == (1, 192, 14, 14)
    assert raw_patches(torch.zeros(1, 3, 30, 50, dtype=torch.uint8), (4, 8)).shape == (1, 3 * 8 * 6, 4, 8)
