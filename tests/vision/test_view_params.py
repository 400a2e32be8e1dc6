"""The geometry that `ViewParams.boxes` states is the one that a view shows, and what loaders hand on with a batch."""
from pathlib import Path

import pytest
import torch

from core.processes import World
from vision import loaders
from vision.augment import Augmentation
from vision.folder import load_folder
from vision.loaders import BatchSampler, loader
from vision.splits import Images
from vision.view_params import concatenate

SIZE = 32
GEOMETRY_ALONE = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarize": 0.0}


def span(line: torch.Tensor) -> tuple[float, float]:
    """Where along a ramp 0, 1, 2 … a resampled line begins and ends, by least squares on its middle half.  line: S"""
    S = len(line)
    place = torch.arange(S, dtype=torch.float64) + 0.5  # output pixels' centers
    middle = slice(S // 4, S - S // 4)  # near the ends the filter is cut off
    design = torch.stack([place[middle], torch.ones(len(place[middle]), dtype=torch.float64)], dim=1)
    slope, offset = torch.linalg.lstsq(design, line[middle, None].double()).solution[:, 0].tolist()
    return offset + 0.5, offset + slope * S + 0.5  # pixel 0's center lies half a pixel from the edge


@pytest.mark.parametrize(("height", "width"), [(48, 64), (200, 90), (SIZE, SIZE)])
def test_boxes_are_what_a_view_shows(height, width):
    """Images whose values are their own coordinates: a view of one shows where it lies."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([rows, columns, columns]).to(torch.uint8).expand(40, 3, height, width)
    local = {"views": 1, "size": 0.5, "crop": [0.2, 0.4]}
    augmentation = Augmentation(SIZE, (0.0,) * 3, (1 / 255,) * 3, 2, local, crop=(0.3, 1.0), **GEOMETRY_ALONE)
    params = augmentation.sample_params(0, 0, torch.arange(40), height, width)
    for view, p in zip(augmentation.render(images, params), params, strict=True):
        boxes = p.boxes()
        assert boxes.shape == (40, 5)
        assert boxes.dtype == torch.float32
        assert set(boxes[:, 4].tolist()) == {0.0, 1.0}
        for row, (top, left, h, w, flip) in zip(view, boxes.tolist(), strict=True):
            first, last = span(row[0].mean(1))
            begin, end = span(row[1].mean(0))
            begin, end = (end, begin) if flip else (begin, end)
            found = (first / height, begin / width, (last - first) / height, (end - begin) / width)
            assert found == pytest.approx((top, left, h, w), abs=0.01)


def test_parameters_of_groups_are_those_of_all():
    augmentation, indices = Augmentation(SIZE, (0.5,), (0.25,)), torch.arange(9)
    height, width = torch.arange(20, 29), torch.arange(50, 41, -1)
    whole = augmentation.sample_params(1, 2, indices, height, width)
    groups = [augmentation.sample_params(1, 2, indices[rows], height[rows], width[rows]) for rows in (slice(0, 4), slice(4, 9))]
    for view, parts in zip(whole, zip(*groups, strict=True), strict=True):
        joined = concatenate(list(parts))
        assert all(torch.equal(getattr(joined, name), getattr(view, name)) for name in view.__dataclass_fields__)
        assert torch.equal(joined.boxes()[2:5], view[2:5].boxes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("files")
    for i in range(24):
        Image.new("RGB", (30 + 3 * i, 70 - 2 * i), (10 * i, 0, 0)).save(root / f"{i:02}.png")
    return root


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
@pytest.mark.parametrize("source", ["memory", "stream", "workers", "pipes"])
def test_a_batch_comes_with_its_boxes_its_step_and_its_seed(source, folder, monkeypatch):
    """One file is broken after the check up front: its neighbor stands in, with the broken one's random numbers."""
    if source == "memory":
        split = Images(torch.zeros(21, 3, 40, 50, dtype=torch.uint8))
        sizes, broken = torch.tensor([[40, 50]] * 21), None
    else:
        split, broken = load_folder(folder, labels="none", validation=0).train, 5
        sizes = torch.tensor([[image.height, image.width] for image in map(split.read, range(len(split)))])
    sampler = BatchSampler(len(split), 6, 7, World(0, 1, 0, 1, torch.device("cpu")))
    augmentation = Augmentation(16, (0.5,) * 3, (0.25,) * 3, 2, {"views": 1, "size": 0.5})
    if source == "pipes":
        monkeypatch.setattr(loaders, "shared_memory_short", lambda needed: 0)
    workers = 2 * (source in ("workers", "pipes"))
    if broken is not None:
        monkeypatch.setattr(split, "max_corrupt", 0.5)
        before = split.path(broken).read_bytes()
        split.path(broken).write_bytes(b"")
    batches = list(loader(split, augmentation, sampler, 3, workers).batches(2, 6))
    if broken is not None:
        split.path(broken).write_bytes(before)
    assert [(batch.seed, batch.step, batch.epoch) for batch in batches] == [(7, s, sampler.at(s)[0]) for s in range(2, 6)]
    seen = set()
    for step, batch in enumerate(batches, 2):
        _, sampled = sampler.at(step)
        seen |= set(sampled.tolist())
        height, width = sizes[batch.indices].T
        params = augmentation.sample_params(7, batch.epoch, sampled, height, width)
        assert len(batch.boxes) == 3
        for boxes, p in zip(batch.boxes, params, strict=True):
            top, left, h, w = p.box.T
            expected = [top / height, left / width, h / height, w / width, p.flip.float()]
            assert torch.equal(boxes, torch.stack(expected, dim=1))
    assert broken is None or broken in seen
