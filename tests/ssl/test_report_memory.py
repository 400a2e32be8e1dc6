"""The checks and the report of a run hold features of many images, and never the images; what cannot be read is in no score."""
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from linear_eval import samples
from linear_eval.features import BLOCK
from ssl import report
from ssl.health import Health
from vision.augment import Augmentation
from vision.encoders import Spec
from vision.folder import load_folder
from vision.splits import Dataset, Images

SIZE = 8
CPU = torch.device("cpu")


class Asked(Images):
    """Notes how many images were asked for at once."""

    largest = 0

    def resized(self, indices, size):
        self.largest = max(self.largest, len(indices))
        return super().resized(indices, size)


def split(count: int, seed: int) -> Asked:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(128, (count, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), :, 2 * labels] = 255  # a bright line, whose place is the class
    return Asked(images, labels)


def encoder(channels: int) -> nn.Module:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Flatten(), nn.Linear(channels * SIZE**2, 5))
    found.spec, found.dim = Spec("none", channels=channels, image_size=SIZE), 5
    return found


def recipe(channels: int) -> Augmentation:
    from core import cli
    from ssl.pretrain import TOOL

    augment = cli.plain(cli.compose(TOOL, ["augment=digits"]).augment)
    return Augmentation(SIZE, (0.5,) * channels, (0.5,) * channels, **augment)


@pytest.fixture
def read_again(monkeypatch):
    monkeypatch.setattr(samples, "KEPT", 0)


def test_no_more_than_a_block_of_images_is_asked_for(read_again):
    """Of 3,000 labelled, 1,200 validation and 1,100 test images, by the checks and by the report."""
    train, validation, test = split(3000, 0), split(1200, 1), split(1100, 2)
    dataset = Dataset("made up", train, train, validation, test, ("a", "b", "c"), 1, SIZE, (0.5,), (0.5,))
    trained, before = encoder(1), encoder(1)
    health = Health(dataset, recipe(1), CPU, 0, trained)
    health.start(trained)
    health.check(1, trained, stop=False)
    scores, unread = report.test_scores(health, dataset, trained, {health.began: before})
    assert max(train.largest, validation.largest, test.largest) == BLOCK
    assert unread == 0
    assert scores["untrained"] == scores["pretrained"], "they have the same weights"
    assert scores["pretrained"].keys() == scores["raw pixels"].keys()
    assert all(60 < scores[name]["knn"] <= 100 for name in scores), "the bright line tells the classes; a guess has 33 %"


def test_files_spoilt_after_the_check_are_in_no_score_and_counted(tmp_path, read_again):
    for part, count in (("train", 60), ("val", 20), ("test", 20)):
        for i in range(count):
            path = tmp_path / part / "ab"[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (2 * i, 120 * (i % 2), 7 * i % 256)).save(path)
    dataset = load_folder(str(tmp_path), "auto", 0.5, 0.1, 0, None)
    bad = [dataset.train.path(5), dataset.validation.path(3), dataset.test.path(0)]
    for path in bad:
        path.write_bytes(b"no image")
    trained = encoder(3)
    health = Health(dataset, recipe(3), CPU, 0, trained)
    counts = SimpleNamespace(rows=[])
    scores_of = health._scores
    health._scores = lambda bank, rows, watched, z: counts.rows.append((len(rows), len(z))) or scores_of(bank, rows, watched, z)
    health.start(trained)
    health.measure_start()
    _, unread = report.test_scores(health, dataset, trained, {health.began: encoder(3)})
    assert counts.rows == [(59, 19), (59, 19)], "raw pixels, then the encoder"
    assert unread == 2, "one of train, one of test"
    assert {*health.skipped, *dataset.skipped} == set(map(str, bad))
