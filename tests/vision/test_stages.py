"""Clean views and larger crops late in a run: as torchvision makes them, and the same wherever a run begins again."""
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import hflip, pil_to_tensor, resized_crop

from core.processes import World
from vision.augment import Augmentation, render_by_torch
from vision.folder import load_folder
from vision.loaders import BatchSampler, loader
from vision.splits import Images
from vision.stages import StagedLoader, first_step, notes, stages

PLAIN = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarize": 0.0}
ORIENTED = {"vflip": 0.5, "turns": 0.5, "rotate": 20.0}


def augmentation(**settings) -> Augmentation:
    return Augmentation(16, (0.5,) * 3, (0.25,) * 3, **settings)


def pixels(count: int = 24, side: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def sampler(count: int = 24) -> BatchSampler:
    return BatchSampler(count, 8, 0, World(0, 1, 0, 1, torch.device("cpu")))


def staged(split, steps: int = 6, clean_from: float = 0.0, **settings) -> StagedLoader:
    recipe = augmentation(**settings)
    return StagedLoader(loader(split, recipe, sampler(), 3), stages(recipe, steps, clean_from))


def test_a_clean_view_is_torchvisions_crop_and_flip():
    images = pixels()
    for batch in staged(Images(images), 1, clean={"size": 2.0}, solarize=0.5).batches(0, 1):
        assert [len(batch.views), len(batch.clean)] == [2, 2]
        for box, clean in zip(batch.boxes, batch.clean, strict=True):
            for i, index in enumerate(batch.indices.tolist()):
                top, left, height, width = (box[i, :4] * 40).round().int().tolist()
                expected = resized_crop(images[index].float() / 255, top, left, height, width, [32, 32], antialias=True)
                expected = hflip(expected) if box[i, 4] else expected
                torch.testing.assert_close(clean[i], (expected - 0.5) / 0.25, atol=2e-5, rtol=0)


@pytest.mark.parametrize("more", [{}, ORIENTED])
def test_without_distortion_the_clean_view_is_the_view(more):
    for batch in staged(Images(pixels()), 1, clean={"size": 1.0}, **PLAIN, **more).batches(0, 1):
        for view, clean in zip(batch.views, batch.clean, strict=True):
            assert torch.equal(view, clean)


@pytest.mark.parametrize("more", [{}, ORIENTED | {"gain": 0.3, "noise": 0.2}])
def test_the_kernel_and_torch_agree_on_clean_views(more):
    images, recipe = pixels(), augmentation(clean={"size": 1.5}, **more).staged(False, True)
    params = recipe.sample_params(0, 0, torch.arange(24), 40, 40)
    for ours, p in zip(recipe.render_clean(images, params), params, strict=True):
        peer = render_by_torch(images, p.clean(), 24, recipe.mean, recipe.std)
        torch.testing.assert_close(ours, peer, atol=2e-4, rtol=0)


def test_a_clean_view_of_a_file_is_torchvisions_of_the_picture(tmp_path):
    for i, one in enumerate(pixels()):
        path = tmp_path / "train" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(path)
    files = load_folder(tmp_path).pretrain
    deal = BatchSampler(len(files), 8, 0, World(0, 1, 0, 1, torch.device("cpu")))
    batch = next(loader(files, augmentation(clean={"size": 2.0}).staged(False, True), deal, 3).batches(0, 1))
    for box, clean in zip(batch.boxes, batch.clean, strict=True):
        for i, index in enumerate(batch.indices.tolist()):
            picture = Image.open(tmp_path / "train" / files.name(index).rpartition("/")[2])
            crop = resized_crop(picture, *(box[i, :4] * 40).round().int().tolist(), [32, 32])
            expected = pil_to_tensor(hflip(crop) if box[i, 4] else crop).float() / 255
            torch.testing.assert_close(clean[i], (expected - 0.5) / 0.25, atol=1e-5, rtol=0)


def test_what_came_before_is_as_it_was_and_a_late_start_gives_the_rest():
    settings = {"local": {"views": 1, "size": 0.5}, "high_resolution": {"size": 2.0, "since": 0.5}, "clean": {"size": 1.5}}
    whole = list(staged(Images(pixels()), 6, 0.4, **settings).batches(0, 6))
    assert [batch.views[0].shape[-1] for batch in whole] == [16] * 3 + [32] * 3
    assert [batch.views[2].shape[-1] for batch in whole] == [8] * 3 + [16] * 3
    assert [[view.shape[-1] for view in batch.clean] for batch in whole] == [[]] * 3 + [[48, 48]] * 3
    before = loader(Images(pixels()), augmentation(local=settings["local"]), sampler(), 3).batches(0, 3)
    for ours, theirs in zip(whole, before, strict=False):
        assert all(map(torch.equal, ours.views, theirs.views))
    for start in (2, 4):
        rest = staged(Images(pixels()), 6, 0.4, **settings).batches(start, 6)
        for one, two in zip(rest, whole[start:], strict=True):
            assert one.step == two.step
            assert all(map(torch.equal, [*one.views, *one.clean], [*two.views, *two.clean]))


def test_a_stage_begins_at_the_first_step_of_its_share():
    assert [first_step(share, 10) for share in (0, 0.3, 0.31, 0.95, 1)] == [0, 3, 4, 10, 10]
    assert all(first_step(k / 7, 7) == k for k in range(8))


def test_the_user_reads_where_stages_begin_and_what_nothing_takes():
    recipe = augmentation(high_resolution={"size": 2.0, "since": 0.5}, clean={"size": 2.0})
    lines = notes(stages(recipe, 10, 0.9), 0.9)
    assert lines == ["augment.high_resolution: global crops of 32 px from step 5 on, of 16 px before",
                     "augment.clean: clean views of 64 px from step 9 on"]
    (line,) = notes(stages(augmentation(clean={"size": 2.0}), 10), 1.0)
    assert line == "augment.clean.size=2: this method, with its settings, takes no clean views; none are made"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"clean": {"size": 20}}, r"augment\.clean\.size=20: a multiple"),
        ({"clean": {"side": 2}}, r"augment\.clean={'side': 2}: settings such as {size: 0\.0}"),
        ({"high_resolution": {"size": 0.5, "since": 0.5}}, r"augment\.high_resolution\.size=0\.5: a multiple"),
        ({"high_resolution": {"size": 2.0}}, r"augment\.high_resolution\.size=2\.0: needs augment\.high_resolution\.since"),
        ({"high_resolution": {"since": 0.5}}, r"augment\.high_resolution\.since=0\.5: needs augment\.high_resolution\.size"),
        ({"clean": {"size": 2}, "policy": "trivialaugment"}, r"augment\.clean\.size=2: augment\.policy=trivialaugment bends"),
    ],
)
def test_mistakes_are_named(settings, line):
    with pytest.raises(ValueError, match=line):
        augmentation(**settings)
