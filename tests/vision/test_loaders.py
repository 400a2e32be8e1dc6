"""What a step sees is a function of its number: not of processes, workers, restarts, or of which files are broken."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from core.processes import World
from vision.augment import Augmentation
from vision.datasets import load
from vision.folder import load_folder, scan
from vision.loaders import BatchSampler, StreamLoader, loader
from vision.splits import Images

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a machine of one core

ROOT = Path(__file__).resolve().parents[2]
ROUNDING = 1e-5  # a batch cut otherwise may be summed in another order; tests/vision/test_augment.py says more
RNG = np.random.default_rng(0)


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, size, torch.device("cpu"))


def augmentation(size: int = 16, channels: int = 3, **settings) -> Augmentation:
    return Augmentation(size, (0.5,) * channels, (0.25,) * channels, **({"solarize": 0.3} | settings))


def in_memory(count: int = 50, channels: int = 3) -> Images:
    pixels = torch.from_numpy(RNG.integers(0, 256, (count, channels, 16, 16), dtype=np.uint8))
    return Images(pixels, torch.arange(count) % 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """40 files: PNG and JPEG of many sizes and modes, in two classes."""
    root = tmp_path_factory.mktemp("files")
    for i in range(40):
        height, width = 12 + 7 * (i % 5), 70 - 9 * (i % 6)
        pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = root / "ab"[i % 2] / f"{i:02}.{('png', 'jpg', 'png')[i % 3]}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).convert("L" if i % 4 == 3 else "RGB").save(path)
    return root


def same(ours, theirs, atol: float = 0) -> None:
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.labels, theirs.labels)
    for one, two in zip(ours.views, theirs.views, strict=True):
        torch.testing.assert_close(one, two, atol=atol, rtol=0)


# ------------------------------------------------------------------------------------------------------------- sampler


def test_an_epoch_shows_every_image_once_but_the_last_few():
    sampler = BatchSampler(53, 10, 0, world())
    assert sampler.steps_an_epoch == 5
    seen = [sampler.at(step) for step in range(15)]
    assert [epoch for epoch, _ in seen] == [0] * 5 + [1] * 5 + [2] * 5
    epochs = [torch.cat([i for _, i in seen[5 * e : 5 * e + 5]]) for e in range(3)]
    for indices in epochs:
        assert len(set(indices.tolist())) == 50
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())  # others are left out


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_are_the_same_at_any_number_of_processes(processes):
    alone = BatchSampler(53, 12, 3, world())
    samplers = [BatchSampler(53, 12, 3, world(rank, processes)) for rank in range(processes)]
    for step in (0, 1, 3, 4, 9, 100):
        shares = [sampler.at(step) for sampler in samplers]
        assert {epoch for epoch, _ in shares} == {alone.at(step)[0]}
        assert all(len(indices) == 12 // processes for _, indices in shares)
        assert torch.equal(torch.cat([indices for _, indices in shares]), alone.at(step)[1])


def test_batches_that_cannot_be():
    with pytest.raises(ValueError, match="batch_size=60 is larger than the data: 53 images"):
        BatchSampler(53, 60, 0, world())
    with pytest.raises(ValueError, match="batch_size=10 does not divide among 4 processes"):
        BatchSampler(53, 10, 0, world(1, 4))
    with pytest.raises(ValueError, match="batch_size=0"):
        BatchSampler(53, 0, 0, world())


# ---------------------------------------------------------------------------------------------- memory and stream alike


@pytest.fixture(params=["memory", "stream", "two workers"])
def make(request, folder):
    """make(rank, size) → a loader of the images of `make.split`, in batches of 12."""
    split = in_memory() if request.param == "memory" else load_folder(folder, validation=0).train

    def make(rank: int = 0, size: int = 1):
        sampler = BatchSampler(len(split), 12, 5, world(rank, size))
        return loader(split, augmentation(), sampler, 3, workers=2 * (request.param == "two workers"))

    make.split = split
    return make


def test_views_do_not_depend_on_the_number_of_processes(make):
    whole = list(make().batches(0, 4))
    for size in (2, 4):
        parts = [list(make(rank, size).batches(0, 4)) for rank in range(size)]
        for step, batch in enumerate(whole):
            mine = [part[step] for part in parts]
            for v, view in enumerate(batch.views):
                torch.testing.assert_close(torch.cat([b.views[v] for b in mine]), view, atol=ROUNDING, rtol=0)
            assert torch.equal(torch.cat([b.indices for b in mine]), batch.indices)
            assert torch.equal(torch.cat([b.labels for b in mine]), batch.labels)


def test_starting_late_gives_exactly_what_going_on_gives(make):
    whole = list(make().batches(0, 8))  # two epochs and more
    for start in (1, 3, 7):
        late = list(make().batches(start, 8))
        assert len(late) == 8 - start
        for ours, theirs in zip(late, whole[start:], strict=True):
            same(ours, theirs)


def test_torchs_own_generator_stays_where_it_was(make):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make().batches(0, 2))
    assert torch.equal(torch.get_rng_state(), before)  # else a restart would change every later dropout


def test_threads_stay_as_they_were(make):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    list(make().batches(0, 1))
    now = torch.get_num_threads()
    torch.set_num_threads(before)
    assert now == 2


def test_labels_are_the_images_own(make):
    for batch in make().batches(0, 4):
        assert torch.equal(batch.labels, make.split.labels[batch.indices])


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (3, 1), (1, 1)])
def test_images_in_memory_fit_the_encoders_channels(channels, wanted):
    split = in_memory(20, channels)
    quiet = augmentation(16, wanted, crop=[1.0, 1.0], ratio=[1.0, 1.0], flip=0, jitter=0, grey=0, blur=0, solarize=0)
    batch = next(loader(split, quiet, BatchSampler(20, 8, 0, world()), wanted).batches(0, 1))
    source = split.images[batch.indices].float()
    luma = source * torch.tensor([0.2989, 0.587, 0.114])[:, None, None] if channels == 3 else source
    expected = (luma.sum(1, keepdim=True) if wanted == 1 else source).expand(-1, wanted, -1, -1)
    for view in batch.views:  # luma is rounded to 8 bits: half a level
        assert ((view * 0.25 + 0.5) * 255 - expected).abs().max() < 0.51


def test_unlabelled_images_have_no_labels():
    split = load("digits", labels="none").train
    batch = next(loader(split, augmentation(8, 1), BatchSampler(len(split), 8, 0, world()), 1).batches(0, 1))
    assert batch.labels is None


# ------------------------------------------------------------------------------------------------------------- stream


def test_crops_are_torchvisions_of_the_decoded_file(folder):
    """Exactly, for the box that the augmentation params; no other step of the chain is on."""
    split = load_folder(folder, validation=0).train
    quiet = augmentation(24, flip=0, jitter=0, grey=0, blur=0, solarize=0)
    stream = StreamLoader(split, quiet, BatchSampler(len(split), 16, 1, world()), 3, 0)
    for batch in stream.batches(0, 2):
        for row, index in enumerate(batch.indices):
            image = split.read(int(index))
            params = quiet.sample_params(1, 0, batch.indices[row : row + 1], image.height, image.width)
            for view, draw in zip(batch.views, params, strict=True):
                expected = pil_to_tensor(resized_crop(image, *draw.box[0].tolist(), [24, 24]))
                levels = ((view[row] * 0.25 + 0.5) * 255).round().to(torch.uint8)
                assert torch.equal(levels, expected)


def test_a_large_jpeg_is_read_no_smaller_than_its_smallest_crop_needs(tmp_path):
    y, x = np.mgrid[:800, :1000]
    Image.fromarray(((x + y) % 256).astype(np.uint8)).save(tmp_path / "x.jpg")
    split = scan(tmp_path).files
    requested = []
    croppable = split.croppable
    split.croppable = lambda index, at_least: requested.append(at_least) or croppable(index, at_least)
    small_crops = augmentation(32, crop=[[0.25, 1.0], [0.04, 0.2]])
    next(StreamLoader(split, small_crops, BatchSampler(1, 1, 0, world()), 3, 0).batches(0, 1))
    assert requested == [160]  # a crop of 4 % of a square of 160 is 32 a side
    image, _ = croppable(0, 160)
    assert (image.width, image.height) == (250, 200) == split.read(0, 160).size


@pytest.fixture
def fragile(folder, tmp_path):
    """A copy of the folder whose files may be broken after the check up front."""
    shutil.copytree(folder, tmp_path / "copy")
    return load_folder(tmp_path / "copy", validation=0).train


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_listed_and_their_neighbors_stand_in(fragile, workers):
    count = len(fragile)
    broken = [3, count // 2, count - 1]
    paths = [fragile.path(i) for i in broken]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:90])
    paths[2].unlink()
    sampler = BatchSampler(count, count // 2, 0, world())
    stream = StreamLoader(fragile, augmentation(), sampler, 3, workers)
    batches = list(stream.batches(0, 2))
    requested = torch.cat([sampler.at(step)[1] for step in (0, 1)]).tolist()
    used = torch.cat([batch.indices for batch in batches])
    stands = {i: (i + 1) % count for i in broken}
    assert used.tolist() == [stands.get(i, i) for i in requested]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), fragile.labels[used])  # of what is there
    assert set(stream.skipped) == set(map(str, paths))
    assert stream.skipped[str(paths[0])] == "empty file"
    assert "No such file" in stream.skipped[str(paths[2])]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_files_end_in_one_line(fragile, workers):
    """Each of two workers may see too few of them to stop; together they do."""
    fragile.max_corrupt = 0.1
    for i in (0, 7, 14, 21):
        fragile.path(i).write_bytes(b"")
    stream = StreamLoader(fragile, augmentation(), BatchSampler(len(fragile), 4, 0, world()), 3, workers)
    with pytest.raises(ValueError, match=r"^4 of 32 images are unreadable .*more than data.max_corrupt=0.1 ") as caught:
        list(stream.batches(0, 8))
    assert "\n" not in str(caught.value)


def test_a_grey_encoder_reads_color_files(folder):
    split = load_folder(folder, validation=0).train
    batch = next(loader(split, augmentation(16, 1), BatchSampler(len(split), 4, 0, world()), 1).batches(0, 1))
    assert [view.shape for view in batch.views] == [(4, 1, 16, 16)] * 2


MEASURE = """
import re, sys, torch
from core.processes import World
from vision.augment import Augmentation
from vision.folder import load_folder
from vision.loaders import BatchSampler, loader
for root in sys.argv[1:]:
    split = load_folder(root, validation=0).train
    sampler = BatchSampler(len(split), 50, 0, World(0, 1, 0, 1, torch.device("cpu")))
    for batch in loader(split, Augmentation(32, (0.5,) * 3, (0.25,) * 3), sampler, 3).batches(0, sampler.steps_an_epoch):
        pass
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]  # ru_maxrss starts at the parent's size
    print(len(split), int(peak) / 1024)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """2,000 images of 100 × 160 are 96 MB decoded, and 49 MB as two float views: keeping either would show."""
    one = tmp_path / "one.png"
    Image.new("RGB", (160, 100), "red").save(one)
    roots = [tmp_path / "200", tmp_path / "2000"]
    for root in roots:
        root.mkdir()
        for i in range(int(root.name)):
            os.link(one, root / f"{i}.png")
    done = subprocess.run([sys.executable, "-c", MEASURE, *roots], cwd=ROOT, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (line.split() for line in done.stdout.splitlines())
    assert (few, many) == ("200", "2000")
    assert float(after) - float(before) < 20  # MB
