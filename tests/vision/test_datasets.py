"""Sets by name: the right pixels beside the right labels, splits that share nothing, mistakes told in one line.

torchvision's sets are written here in their own formats on disk, a few images each, and read by torchvision's classes.
"""

import ast
import gzip
import pickle
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn.functional import interpolate

from vision import datasets, hub, small_sets, splits
from vision.datasets import NAMES, load
from vision.small_sets import DEBIAN_FASHION_MNIST, READERS
from vision.splits import Images, complete_splits

RNG = np.random.default_rng(0)
needs_debian = pytest.mark.skipif(not DEBIAN_FASHION_MNIST.exists(), reason="apt-get install dataset-fashion-mnist")


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def whole(*splits: Images) -> set[tuple[bytes, int]]:
    """All images with their labels."""
    return {(image.numpy().tobytes(), int(label)) for split in splits
            for image, label in zip(split.images, split.labels, strict=True)}


# --------------------------------------------------------------------------------------------------------------- splits


def labelled(counts: list[int], unlabelled: bool = False) -> Images:
    """Image i is one pixel pair that spells i; classes take turns."""
    labels = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    labels = labels[torch.from_numpy(np.random.default_rng(1).permutation(len(labels)))]
    spelled = torch.stack((torch.arange(len(labels)) // 256, torch.arange(len(labels)) % 256)).T.to(torch.uint8)
    return Images(spelled[:, None, None], None if unlabelled else labels)


def numbers(split: Images) -> list[int]:
    return (split.images[:, 0, 0, 0].int() * 256 + split.images[:, 0, 0, 1]).tolist()


@pytest.mark.parametrize(("counts", "share", "expected"), [
    ([100, 100], 0.1, [10, 10]),
    ([100, 50, 25], 0.1, [10, 5, 3]),  # 17.5 → 18 by largest remainder
    ([500, 3, 2, 1], 0.1, [49, 1, 1, 0]),  # 51 in all; one of each class that keeps one
    ([5] * 6, 0.1, [1] * 6),
    ([2, 2], 0.9, [1, 1]),  # never all of a class
    ([1], 0.5, [0]),
    ([7, 8], 0, [0, 0]),
    ([60_000], 0.1, [5_000]),  # the cap
    ([40_000, 20_000], 0.5, [3_333, 1_667]),
])
def test_validation_is_stratified_and_capped(counts, share, expected):
    split = labelled(counts)
    train, validation, _ = complete_splits(split, None, split, share, seed=0)
    assert validation.labels.bincount(minlength=len(counts)).tolist() == expected
    assert sorted(numbers(train) + numbers(validation)) == list(range(sum(counts)))
    for part in (train, validation):
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == split.labels[numbers(part)].tolist()


def test_validation_is_a_function_of_the_seed():
    split = labelled([200], unlabelled=True)

    def drawn(seed):
        return numbers(complete_splits(split, None, split, 0.1, seed)[1])

    pinned = [2, 3, 7, 32, 51, 61, 69, 77, 85, 92, 96, 103, 113, 114, 127, 136, 158, 161, 183, 192]
    assert drawn(0) == drawn(0)
    assert len(drawn(0)) == 20
    assert drawn(0) != drawn(1)
    assert len({i for seed in range(40) for i in drawn(seed)}) > 190  # (1 − 0.1)⁴⁰ · 200 = 3 are never drawn
    assert drawn(0) == pinned  # other numbers would move images between the splits of encoders that exist


def test_more_classes_than_the_cap_allows(monkeypatch):
    monkeypatch.setattr(splits, "VALIDATION_CAP", 3)
    _, validation, _ = complete_splits(labelled([4] * 5), None, labelled([1]), 0.5, seed=0)
    assert len(validation) == 3


# ------------------------------------------------------------------------------------------------- digits and synthetic


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    dataset = load("digits")
    official = load_digits()
    everything = [(image.astype(int).tobytes(), int(label)) for image, label in
                  zip(np.rint(official.images * 255 / 16), official.target, strict=True)]
    splits = (dataset.train, dataset.validation, dataset.test)
    found = [(image.numpy().astype(int).tobytes(), int(label)) for split in splits
             for image, label in zip(split.images[:, 0], split.labels, strict=True)]
    assert sorted(found) == sorted(everything)
    assert [len(split) for split in splits] == [1294, 144, 359]  # 20 % of 1,797, then 10 % of the rest
    assert dataset.train.images.shape == (1294, 1, 8, 8)
    assert dataset.train.images.unique().tolist() == np.rint(np.arange(17) * 255 / 16).tolist()
    for split in splits:
        share = split.labels.bincount() / len(split)
        assert (share - torch.tensor(np.bincount(official.target) / 1797)).abs().max() < 0.01
    assert (dataset.channels, dataset.image_size, dataset.classes) == (1, 8, tuple("0123456789"))
    pixels = dataset.train.images.double().numpy() / 255
    np.testing.assert_allclose((dataset.mean + dataset.std), (pixels.mean(), pixels.std()), rtol=1e-12)
    assert dataset.pretrain is dataset.train
    assert dataset.test.name(17) == "digits/test/17"
    other = load("digits", seed=5)
    assert torch.equal(other.test.images, dataset.test.images)
    assert not torch.equal(other.validation.images, dataset.validation.images)
    unlabelled = load("digits", labels="none")
    assert unlabelled.classes is unlabelled.train.labels is unlabelled.test.labels is None
    assert torch.equal(unlabelled.train.images, dataset.train.images)


def test_synthetic_can_be_learned_but_not_from_raw_pixels():
    dataset = load("synthetic")
    train, test = dataset.train, dataset.test
    assert (train.images.shape, len(dataset.validation), len(test)) == ((1440, 3, 32, 32), 160, 400)
    assert train.labels.bincount().tolist() == [144] * 10
    assert not whole(train) & whole(dataset.validation, test)
    assert torch.equal(load("synthetic", seed=3).test.images, test.images)

    def nearest(features):
        return (train.labels[torch.cdist(features(test), features(train)).argmin(1)] == test.labels).float().mean()

    def figure(split):  # what differs from the corner's color, cut out, at one size; and the stripes' direction
        images = split.images.float()
        mask = ((images - images[:, :, :1, :1]).abs().sum(1) > 90).float()
        rows = []
        for image, one in zip(images.mean(1), mask, strict=True):
            y, x = one.nonzero().T
            cut = one[None, None, y.min() : y.max() + 1, x.min() : x.max() + 1]
            vertical = image.diff(dim=0).abs().sum() < image.diff(dim=1).abs().sum()
            rows.append(torch.cat((interpolate(cut, (12, 12)).flatten(), 20 * vertical.float()[None])))
        return torch.stack(rows)

    assert nearest(lambda split: split.images.flatten(1).float()) < 0.3  # chance is 0.1
    assert nearest(figure) > 0.8


# --------------------------------------------------------------------------------------------------- torchvision's sets


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_files(train: int = 40, test: int = 10) -> dict[str, np.ndarray]:
    return {"train-images-idx3-ubyte": noise(train, 28, 28),
            "train-labels-idx1-ubyte": np.arange(train, dtype="u1") % 10, "t10k-images-idx3-ubyte": noise(test, 28, 28),
            "t10k-labels-idx1-ubyte": np.arange(test, dtype="u1")[::-1]}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_from_torchvision_and_from_gz_files(tmp_path, name):
    files = mnist_files()
    raw = tmp_path / "torchvision" / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    raw.mkdir(parents=True)
    for file, array in files.items():
        (raw / file).write_bytes(idx(array))
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
    for root in (tmp_path, tmp_path / "torchvision"):
        dataset = load(name, str(root), download=False, validation=0.25)
        assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [30, 10, 10]
        np.testing.assert_array_equal(dataset.test.images[:, 0], files["t10k-images-idx3-ubyte"])
        assert dataset.test.labels.tolist() == list(range(9, -1, -1))
        pairs = zip(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"], strict=True)
        assert whole(dataset.train, dataset.validation) == {(image.tobytes(), int(label)) for image, label in pairs}
        assert (dataset.channels, dataset.image_size, len(dataset.classes)) == (1, 28, 10)
        assert (dataset.mean, dataset.std) == datasets.STATISTICS[name]
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is missing or broken"):
        load(name, str(tmp_path))


@pytest.mark.parametrize(("file", "content", "why"), [
    ("train-images-idx3-ubyte", lambda whole: gzip.compress(whole)[:-2000], "is missing or broken"),
    ("train-images-idx3-ubyte", lambda whole: gzip.compress(whole)[:10] + b"\xff" * 50, "is missing or broken"),  # zlib.error
    ("train-images-idx3-ubyte", lambda whole: gzip.compress(whole[:-5]), "is missing or broken"),
    ("train-images-idx3-ubyte", lambda whole: gzip.compress(idx(np.arange(40, dtype="u1"))), "uint8 array of 3 dimensions"),
    ("train-labels-idx1-ubyte", lambda whole: gzip.compress(idx(np.zeros(39, "u1"))), "40 images and 39 labels up to 0"),
    ("t10k-labels-idx1-ubyte", lambda whole: gzip.compress(idx(np.full(10, 10, "u1"))), "10 images and 10 labels up to 10"),
])
def test_damaged_idx_files_end_in_one_line(tmp_path, file, content, why):
    for name, array in mnist_files().items():
        (tmp_path / f"{name}.gz").write_bytes(content(idx(array)) if name == file else gzip.compress(idx(array)))
    with pytest.raises(ValueError, match=why) as caught:
        load("mnist", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_torchvision_ends_in_one_line(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in mnist_files().items():
        (raw / name).write_bytes(idx(array)[:100])
    with pytest.raises(ValueError, match=r"mnist is not in data.root=.*, or damaged"):
        load("mnist", str(tmp_path), download=False)


@needs_debian
def test_fashion_mnist_is_debians_and_has_the_stated_statistics(monkeypatch):
    monkeypatch.setattr(small_sets, "_torchvision", None)
    dataset = load("fashion_mnist")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [55_000, 5_000, 10_000]
    assert dataset.validation.labels.bincount().tolist() == [500] * 10
    assert dataset.test.labels[:5].tolist() == [9, 2, 1, 1, 6]  # as its readers everywhere show them
    assert dataset.classes == tuple(torchvision.datasets.FashionMNIST.classes)
    pixels = torch.cat((dataset.train.images, dataset.validation.images)).numpy()
    for stated, measured in ((dataset.mean, pixels.mean() / 255), (dataset.std, pixels.std() / 255)):
        assert abs(stated[0] - measured) < 5e-5  # four digits


def write_cifar(root: Path, name: str) -> tuple[np.ndarray, list[int]]:
    """A few images as the authors' pickles → (train images N,3,32,32, labels)."""
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    folder, count = root / kind.base_folder, len(kind.train_list)
    folder.mkdir(parents=True)
    images, classes = noise(count * 20, 3, 32, 32), int(name[5:])
    labels = [(7 * i) % classes for i in range(len(images))]
    key = "labels" if name == "cifar10" else "fine_labels"
    for i, (file, _) in enumerate(kind.train_list + kind.test_list):
        part = slice(20 * i, 20 * i + 20) if i < count else slice(0, 5)
        entry = {"data": images[part].reshape(-1, 3072), key: labels[part]}
        (folder / file).write_bytes(pickle.dumps(entry))
    meta = {kind.meta["key"]: [f"class {k}" for k in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    return images, labels


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, monkeypatch, name):
    images, labels = write_cifar(tmp_path, name)
    with pytest.raises(ValueError, match=f"{name} is not in data.root=.*, or damaged; set data.root"):
        load(name, str(tmp_path), download=False)  # torchvision's checksums are in force
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    dataset = load(name, str(tmp_path), download=False)
    assert whole(dataset.train, dataset.validation) == {(image.tobytes(), label) for image, label in
                                                        zip(images, labels, strict=True)}
    np.testing.assert_array_equal(dataset.test.images, images[:5])
    assert dataset.test.labels.tolist() == labels[:5]
    assert dataset.classes == tuple(f"class {k}" for k in range(int(name[5:])))  # all of them, though few are present
    assert (dataset.channels, dataset.image_size) == (3, 32)
    assert dataset.train.images.is_contiguous()
    official = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    image, label = official(tmp_path, train=False)[3]
    np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), dataset.test.images[3])
    assert label == dataset.test.labels[3]


def test_stl10_pretrains_on_unlabelled_and_train(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = {"train": noise(20, 3, 96, 96), "test": noise(6, 3, 96, 96), "unlabeled": noise(15, 3, 96, 96)}
    for part, array in images.items():
        (folder / f"{part}_X.bin").write_bytes(array.transpose(0, 1, 3, 2).tobytes())  # stored column by column
    (folder / "train_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(20)))  # stored from 1
    (folder / "test_y.bin").write_bytes(bytes([10, 1, 2, 3, 4, 5]))
    monkeypatch.setattr(torchvision.datasets.stl10, "check_integrity", lambda path, md5=None: Path(path).is_file())
    dataset = load("stl10", str(tmp_path), download=False)
    np.testing.assert_array_equal(dataset.test.images, images["test"])
    assert dataset.test.labels.tolist() == [9, 0, 1, 2, 3, 4]
    assert whole(dataset.train, dataset.validation) == {(image.tobytes(), i % 10) for i, image in
                                                        enumerate(images["train"])}
    assert sorted(dataset.validation.labels.tolist()) == list(range(10))  # 10 % of 20 is 2, but one of each class
    assert dataset.pretrain.labels is None
    np.testing.assert_array_equal(dataset.pretrain.images, np.concatenate((dataset.train.images, images["unlabeled"])))
    assert (dataset.image_size, len(dataset.classes), dataset.pretrain.name(3)) == (96, 10, "stl10/pretrain/3")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "stl10"])
def test_what_cannot_be_fetched_is_told_in_one_line(tmp_path, monkeypatch, name):
    def offline(*_, **__):
        raise urllib.error.URLError(OSError("Name or service not known\nand more"))

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(small_sets, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    for root in (str(tmp_path / "sub"), None):
        for download in (True, False):
            with pytest.raises(ValueError, match=r"is not in data.root=") as caught:
                load(name, root, download=download)
            message = str(caught.value)
            assert "\n" not in message
            assert "set data.root to the folder that holds" in message
            assert ("download failed" in message) == download
            assert ("apt-get install dataset-fashion-mnist" in message) == (name == "fashion_mnist")


# ----------------------------------------------------------------------------------------------------------------- rest


def test_resized_in_memory():
    images = Images(torch.from_numpy(noise(5, 3, 8, 8)))
    assert torch.equal(images.resized(torch.tensor([4, 1]), 8), images.images[[4, 1]])
    for size in (3, 20):
        got = images.resized(torch.tensor([2, 0, 2]), size)
        assert (got.shape, got.dtype) == ((3, 3, size, size), torch.uint8)
        for image, index in zip(got, (2, 0, 2), strict=True):
            pillow = Image.fromarray(images.images[index].permute(1, 2, 0).numpy()).resize((size, size), Image.BILINEAR)
            difference = image.permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
            assert difference.abs().max() <= 1  # Pillow rounds to uint8 after each of its two passes, we once


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "cifar"}, r"data=cifar is not known; did you mean cifar10\?; there are digits, mnist"),
    ({"name": "xyzzy"}, r"data=xyzzy is not known; there are"),
    ({"name": "digits", "labels": "some"}, "data.labels=some is not one of auto, folders, none"),
    ({"name": "digits", "validation": 1}, "data.validation=1 must be"),
    ({"name": "folder", "max_corrupt": 1.5}, "data.max_corrupt=1.5 must lie"),
    ({"name": "folder"}, "needs data.root"),
    ({"name": "folder", "root": "/nonexistent"}, "data.root=/nonexistent does not exist"),
])
def test_mistakes_end_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)


def test_load_passes_its_options_to_the_folder(tmp_path):
    for i in range(10):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    (tmp_path / "10.png").write_bytes(b"")
    seen = []
    dataset = load("folder", str(tmp_path), validation=0.3, max_corrupt=0.1, progress=lambda *done: seen.append(done))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test), seen[-1]) == (7, 3, 0, (11, 11))
    assert dataset.validation.max_corrupt == 0.1
    with pytest.raises(ValueError, match=r"data.max_corrupt=0.05"):
        load("folder", str(tmp_path), max_corrupt=0.05)


def test_every_name_is_known_and_heavy_libraries_wait():
    assert set(NAMES) - set(READERS) == {"folder", "shards", "hf", "torchvision"}
    trees = [ast.parse(Path(file).read_text()) for file in (datasets.__file__, small_sets.__file__, hub.__file__)]
    nodes = [node for tree in trees for node in tree.body]
    tops = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    tops |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {"torchvision", "sklearn", "datasets", "sklearn.datasets"} & tops
