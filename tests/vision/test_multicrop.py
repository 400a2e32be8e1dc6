"""Local crops: smaller, of a smaller part, drawn beside the views that were there, from memory and from files."""
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor as to_tensor

from core.processes import World
from vision import artifact, datasets, encoders
from vision.augment import Augmentation, picture
from vision.loaders import BatchSampler, loader

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
LOCAL = {"views": 3, "size": 0.43, "crop": [0.05, 0.14], "blur": None, "solarize": 0.5}
WORLD = World(0, 1, 0, 1, torch.device("cpu"))


def test_local_views_have_settings_of_their_own_and_the_first_views_otherwise():
    augmentation = Augmentation(32, MEAN, STD, 2, LOCAL, crop=(0.3, 1.0), blur=[1.0, 0.1], hue=0.1)
    assert [view.size for view in augmentation.views] == [32, 32, 14, 14, 14]
    assert [view.crop for view in augmentation.views] == [(0.3, 1.0)] * 2 + [(0.05, 0.14)] * 3
    assert [view.blur for view in augmentation.views] == [1.0, 0.1, 1.0, 1.0, 1.0]
    assert [view.solarize for view in augmentation.views] == [0.0, 0.0, 0.5, 0.5, 0.5]
    assert {view.hue for view in augmentation.views} == {0.1}


@pytest.mark.parametrize(("size", "multiple", "local"), [(224, 1, 96), (224, 16, 96), (224, 14, 98), (32, 4, 12), (8, 4, 4)])
def test_local_crops_are_whole_patches(size, multiple, local):
    assert Augmentation(size, MEAN, STD, 2, LOCAL, multiple).local_size == local


def test_the_large_views_are_those_of_a_recipe_without_local_crops():
    images, indices = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6)
    several, two = Augmentation(32, MEAN, STD, 2, LOCAL), Augmentation(32, MEAN, STD, 2)
    params = several.sample_params(0, 0, indices, 32, 32)
    views, plain = several.render(images, params), two.render(images, two.sample_params(0, 0, indices, 32, 32))
    assert [view.shape[-1] for view in views] == [32, 32, 14, 14, 14]
    assert all(torch.equal(a, b) for a, b in zip(views, plain, strict=False))
    areas = torch.stack([draw.box[:, 2] * draw.box[:, 3] for draw in params[2:]]) / 32**2
    assert (areas < 0.18).all()  # .14, and sides round to whole pixels
    assert not torch.equal(views[2], views[3])
    assert len(picture(images, several)) > 1000


def test_files_give_the_views_that_memory_gives_at_the_same_sizes(tmp_path):
    for i in range(4):
        pixels = torch.randint(256, (40, 48, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((192, 160), Image.Resampling.BILINEAR).save(tmp_path / f"{i}.png")
    split = datasets.load("folder", str(tmp_path), labels="none").train
    plain = Augmentation(32, MEAN, STD, 2, LOCAL, jitter=0.0, grey=0.0, blur=0.0)  # files are cropped in 8 bits
    (batch,) = loader(split, plain, BatchSampler(len(split), len(split), 0, WORLD), 3).batches(0, 1)
    assert [view.shape[-1] for view in batch.views] == [32, 32, 14, 14, 14]
    whole = torch.stack([to_tensor(split.readable(i, 1)[0]) for i in batch.indices.tolist()])
    expected = plain.render(whole, plain.sample_params(0, 0, batch.indices, 160, 192))
    for view, same in zip(batch.views, expected, strict=True):
        inverted = ((view - same).abs() > 0.1).float().mean()  # where rounding moved a pixel over the solarizing threshold
        assert inverted < 0.01
        assert (view - same).abs().median() < 1 / 255 / STD[0]  # 8 bits


def test_a_transformer_takes_several_sizes_and_still_does_after_it_was_saved(tmp_path):
    encoder = encoders.create("vit_tiny_patch16_224", 3, 32, several_sizes=True).eval()
    assert encoders.patch_size(encoder) == 4
    small, large = torch.randn(2, 3, 12, 12), torch.randn(2, 3, 32, 32)
    augmentation = Augmentation(32, MEAN, STD)
    (tmp_path / "encoder.safetensors").write_bytes(artifact.dumps(encoder, augmentation, {}))
    again, _ = artifact.load(tmp_path / "encoder.safetensors")
    assert torch.equal(again.eval()(small), encoder(small))
    assert torch.equal(again.eval()(large), encoder(large))
    assert encoders.patch_size(encoders.create("resnet10t", 3, 32)) == 1


@pytest.mark.parametrize(("local", "message"), [
    ({"views": -1}, r"augment\.local\.views=-1"),
    ({"views": 1.5}, r"augment\.local\.views=1\.5"),
    ({"views": 2, "size": 0}, r"augment\.local\.size=0"),
    ({"views": 2, "size": 1.5}, r"augment\.local\.size=1\.5"),
    ({"views": 2, "crops": [0.1, 0.2]}, r"augment\.local\.crops is not a setting; did you mean crop\?"),
    ({"views": 2, "crop": 0.2}, r"augment\.local\.crop=0\.2: needs two numbers"),
    ({"views": 2, "crop": [0.5, 0.2]}, r"augment\.crop"),
])
def test_mistakes_are_named_in_one_line(local, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(32, MEAN, STD, 2, local)
