"""A sample is read in blocks, again in each pass beyond what it may keep, and without the images that cannot be read."""
import io
import weakref

import pytest
import torch
from PIL import Image

from linear_eval import samples
from linear_eval.features import BLOCK
from linear_eval.samples import Sample, at_most
from linear_eval.sheets import neighbor_sheet
from vision.encoders import Spec
from vision.folder import load_folder
from vision.splits import Images

SPEC = Spec("none", channels=1, image_size=4)


class Metered(Images):
    """A split that knows how many images were asked for at once, and how many bytes of them were alive at a time."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        super().__init__(torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(count) % 3)
        self.largest = self.alive = self.peak = self.read = 0

    def resized(self, indices, size):
        images = super().resized(indices, size)
        self.largest, self.read = max(self.largest, len(images)), self.read + len(images)
        self.alive += images.nbytes
        self.peak = max(self.peak, self.alive)
        weakref.finalize(images, self._gone, images.nbytes)
        return images

    def _gone(self, size: int) -> None:
        self.alive -= size


def levels(images, positions):
    return images.flatten(1).float()


def test_every_image_is_seen_once_in_order_in_blocks():
    split = Metered(2 * BLOCK + 100)
    positions, (rows,) = Sample(split, 10**6, SPEC).describe(levels)
    assert torch.equal(positions, torch.arange(len(split)))
    assert torch.equal(rows, split.images.flatten(1).float())
    assert split.largest == BLOCK
    assert split.read == len(split)


def test_memory_is_what_may_be_kept_and_three_blocks(monkeypatch):
    """Eight blocks, of which two may stay: the one in use, the one being read and one that is let go come on top."""
    block = BLOCK * 16  # bytes: 4 × 4 pixels
    monkeypatch.setattr(samples, "KEPT", 2 * block)
    split = Metered(8 * BLOCK)
    sample = Sample(split, len(split), SPEC)
    first, second = (sample.describe(levels)[1][0] for _ in range(2))
    assert torch.equal(first, second)
    assert split.peak <= (2 + 3) * block
    assert split.read == (8 + 6) * BLOCK, "two blocks are kept, the others are read again"


def test_a_sample_is_evenly_spaced_and_so_is_a_part():
    split = Metered(1000)
    sample = Sample(split, 10, SPEC)
    assert sample.indices.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert torch.equal(sample.labels, split.labels[sample.indices])
    assert torch.equal(at_most(split, 10).labels, sample.labels)
    assert at_most(split, 1000) is split


@pytest.fixture
def spoilt(tmp_path):
    """40 files of two classes, of which the 3rd and the last of train are overwritten after the folder was checked."""
    for i in range(40):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), 6 * i).save(path)
    train = load_folder(str(tmp_path), "auto", 0.5, 0.0, 0, None).train
    bad = [2, len(train) - 1]
    for i in bad:
        train.path(i).write_bytes(b"no image")
    return train, bad


def test_an_image_that_cannot_be_read_has_no_row(spoilt):
    train, bad = spoilt
    sample = Sample(train, 10**6, Spec("none", channels=3, image_size=4))
    positions, (rows,) = sample.describe(levels)
    assert positions.tolist() == [i for i in range(len(train)) if i not in bad]
    assert len(rows) == len(train) - 2
    assert len(torch.cat(list(sample))) == len(train), "a block keeps its size: BatchNorm of several processes needs it"
    assert set(train.skipped) == {train.where(i) for i in bad}


def test_an_error_of_the_reader_reaches_whoever_asks(monkeypatch):
    split = Metered(3 * BLOCK)
    sample = Sample(split, len(split), SPEC)
    seen = []

    def broken(number, indices):
        if number == 2:
            raise ValueError("no image can be read any more")
        return split.resized(indices, 4)

    monkeypatch.setattr(sample, "_read", broken)
    with pytest.raises(ValueError, match="no image can be read any more"):
        sample.describe(lambda images, _: seen.append(len(images)) or images.flatten(1).float())
    assert seen == [BLOCK, BLOCK]


def test_the_sheet_of_neighbors_of_an_encoder_of_rectangles_shows_squares():
    pixels = torch.randint(0, 256, (12, 1, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample, seen = Sample(Images(pixels), 12, Spec("test_resnet", 1, (16, 24))), []

    def describe(images, positions):
        seen.append(images.shape[1:])
        return images.flatten(1).float()

    positions, (rows,) = sample.describe(describe)
    sheet = neighbor_sheet(sample, positions, rows)
    assert {*seen} == {(1, 16, 24)}
    assert Image.open(io.BytesIO(sheet)).width > 100
