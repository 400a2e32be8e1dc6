"""Views rendered at once, and recorded, are those rendered one by one; rendering on a GPU waits for nothing."""
import pytest
import torch

from core.processes import World
from vision import joint
from vision.augment import Augmentation, render_by_torch
from vision.loaders import BatchSampler, MemoryLoader
from vision.splits import Images

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
STRONG = dict(crop=(0.2, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2, blur=0.5)
LOCAL = {"views": 2, "size": 0.5}
B, SIZE = 6, 16


def drawn(**settings):
    augmentation = Augmentation(SIZE, MEAN, STD, **STRONG | settings)
    images = torch.randint(256, (B, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return augmentation, images, augmentation.sample_params(0, 0, torch.arange(B), 20, 20)


def at_once(augmentation, images, params):
    sizes = [view.size for view in augmentation.views]
    moments = augmentation.mean, augmentation.std
    return joint.render(render_by_torch, [images] * len(params), params, sizes, moments, False)


@pytest.mark.parametrize("settings", [{}, {"local": LOCAL}, {"vflip": [0.0, 0.5], "local": LOCAL}])
def test_views_rendered_at_once_are_those_rendered_one_by_one(settings):
    augmentation, images, params = drawn(**settings)
    both = at_once(augmentation, images, params)
    for view, p, got in zip(augmentation.views, params, both, strict=True):
        alone = render_by_torch(images, p, view.size, augmentation.mean, augmentation.std)
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-5)  # products of larger batches may sum in another order
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_which_views_are_rendered_at_once():
    augmentation, _, params = drawn(local=LOCAL)
    sizes = [view.size for view in augmentation.views]
    assert joint.groups(sizes, params, 3 * B) == [[0, 1], [2, 3]]
    assert joint.groups(sizes, params, joint.AT_ONCE) == [[0], [1], [2], [3]], "large views would double the memory"
    augmentation, _, params = drawn(vflip=[0.0, 0.5])
    assert joint.groups([SIZE, SIZE], params, 3 * B) == [[0], [1]], "of other operations"


def test_recorded_views_are_the_augmentations():
    augmentation, _, _ = drawn(local=LOCAL)
    recorded = joint.recorded(augmentation, lambda work: (work(), work)[1])
    for step in range(3):
        images = torch.randint(256, (B, 3, 20, 20), dtype=torch.uint8)
        params = augmentation.sample_params(0, step, torch.arange(B), 20, 20)
        for got, expected in zip(recorded(images, params), augmentation.render(images, params), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("settings", [{}, {"local": LOCAL, "solarize": 0.2}])
def test_rendering_on_a_device_waits_for_no_value(settings):
    """Tensors of the meta device have none: to ask for one raises."""
    world = World(0, 1, 0, 1, torch.device("meta"))
    images = Images(torch.zeros(4 * B, 3, 20, 20, dtype=torch.uint8))
    loader = MemoryLoader(images, Augmentation(SIZE, MEAN, STD, **STRONG | settings), BatchSampler(4 * B, B, 0, world), 3)
    first, second = list(loader.batches(0, 2))
    assert [view.shape for view in first.views] == [view.shape for view in second.views]
    assert all(view.device.type == "meta" for view in first.views)
