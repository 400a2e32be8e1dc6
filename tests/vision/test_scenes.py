"""Scenes: what is drawn is where the mask has it, and is a function of (draw, split, index)."""
import numpy as np
import pytest
import torch

from core.settings import Group
from vision.datasets import load
from vision.scenes import SceneOptions, load_scenes
from vision.segmentation import load_segmentation, segmentation

OPTIONS = {"name": "scenes", "objects": "digits", "images": 40, "size": 32, "most": 3, "scale": [0.4, 0.8], "draw": 0,
           "root": None}


def test_an_image_depends_on_its_index_alone_and_a_split_s_size_on_the_setting():
    few, many = (load_scenes(SceneOptions(images=images, size=32)) for images in (40, 200))
    assert {role: len(part.images) for role, part in few.items()} == {"train": 40, "validation": 8, "test": 8}
    for role in few:
        count = len(few[role].images)
        assert torch.equal(few[role].images, many[role].images[:count])
        assert np.array_equal(few[role].masks, many[role].masks[:count])
    other = load_scenes(SceneOptions(images=40, size=32, draw=1))["train"]
    assert (other.images != few["train"].images).flatten(1).any(1).all()


def test_objects_lie_where_their_mask_says_and_differ_from_the_background():
    scenes = load_scenes(SceneOptions(images=100, size=48, most=1))["train"]
    gray = scenes.images.float().mean(1).numpy()
    inside = scenes.masks > 0
    for image, mask in zip(gray, inside, strict=True):
        assert 0.02 < mask.mean() < 0.6
        bright, dark = sorted((image[mask].mean(), image[~mask].mean()), reverse=True)
        assert bright > 0.5 * 255 > 0.47 * 255 > dark  # both are drawn apart: 0.55 to 1, and 0 to 0.45, and edges between
    both_ways = [image[mask].mean() > image[~mask].mean() for image, mask in zip(gray, inside, strict=True)]
    assert 20 < sum(both_ways) < 80


def test_classes_are_those_of_the_objects_and_a_lone_object_has_one():
    scenes = load_scenes(SceneOptions(images=60, size=32, most=1))["train"]
    assert scenes.classes == ("background", *load("digits").classes)
    assert scenes.masks.dtype == np.uint8
    assert all(len(np.unique(mask)) == 2 for mask in scenes.masks)
    several = load_scenes(SceneOptions(images=60, size=32, most=4))["train"]
    assert max(len(np.unique(mask)) for mask in several.masks) >= 4


def test_the_record_has_images_without_labels_and_a_mask_for_each():
    data = load_segmentation(OPTIONS)
    assert data.dataset.classes is None
    assert data.dataset.train.labels is None
    assert data.dataset.pretrain is data.train.images
    part = segmentation(Group("scenes", OPTIONS), "val")
    assert len(part) == len(part.masks) == 8
    assert part.masks[3].shape == (32, 32)
    assert len(part.classes) == len(part.colors) == 11
    assert len({split.masks.fingerprint() for split in (data.train, data.validation, data.test)}) == 3


@pytest.mark.parametrize(("change", "message"), [
    ({"objects": "cats"}, "data.objects=cats: must be digits or fashion_mnist"),
    ({"images": 3}, "data.images=3: must be a whole number from 10"),
    ({"scale": [0.5, 0.2]}, r"data.scale=\[0.5, 0.2\]: must be two shares"),
    ({"name": "digits"}, "data=digits has no masks; take data=scenes"),
    ({"objects": "fashion_mnist", "root": "/nowhere"}, "set data.root to the folder that holds"),
])
def test_a_setting_that_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        load_segmentation(OPTIONS | change)
    assert "\n" not in str(error.value)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split=best: must be train, val or test"):
        load_segmentation(OPTIONS).split("best")
