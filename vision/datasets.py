"""Names → data sets: images, labels and splits, none of which is ever part of another.

`load("digits")` and the other small sets lie in memory as uint8; `folder`, `shards` and `hf` are decoded on
demand (vision/folder.py, vision/shards.py, vision/hub.py). Downloads are torchvision's and Hugging Face's own; torchvision,
scikit-learn and datasets are imported only by the sets that need them.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vision import random
from vision.decode import reason
from vision.folder import load_folder
from vision.hub import load_hub
from vision.shards import load_shards
from vision.streamed import Progress, Streamed, drop_unreadable

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10", "synthetic", "folder", "shards", "hf")
LABELS = ("auto", "folders", "none")
VALIDATION_CAP = 5_000
TEST_SHARE, TEST_CAP = 0.2, 10_000  # carved where a labelled set has no test split
FOR_TEST, FOR_VALIDATION = 0, 1  # the counter's epoch word: which carving a random number is for
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # apt-get install dataset-fashion-mnist

# Mean and standard deviation over the pixels of the official train split, per channel in 0..1. MNIST: PyTorch's
# examples; Fashion-MNIST: computed from Debian's copy (a test repeats it); CIFAR-10, CIFAR-100, STL-10 (labelled
# split): the four digits that circulate, not recomputed here; ImageNet's, as in timm, for folders and hf.
STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
TEN = tuple("0123456789")


class Images:
    """A split held in memory.  images: N,C,H,W uint8; labels: N int64, or None where unlabelled."""

    def __init__(self, images: Tensor, labels: Tensor | None = None, source: str = "images") -> None:
        assert images.ndim == 4, images.shape
        assert images.dtype == torch.uint8, images.dtype
        assert labels is None or labels.shape == images.shape[:1], (labels.shape, images.shape)
        self.images, self.labels, self.source = images, labels, source

    def __len__(self) -> int:
        return len(self.images)

    def select(self, positions: Tensor) -> Images:
        """A copy of these positions."""
        return Images(self.images[positions], None if self.labels is None else self.labels[positions], self.source)

    def resized(self, indices: Tensor, size: int) -> Tensor:
        """→ B,C,size,size uint8, bilinear with antialiasing; the pixels themselves where they have that size."""
        images = self.images[indices]
        if images.shape[-2:] == (size, size):
            return images
        images = interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        return images.round().clamp(0, 255).to(torch.uint8)

    def name(self, index: int) -> str:
        return f"{self.source}/{index}"

    def fingerprint(self) -> str:
        """Of the images, in their order."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for part in self.images.split(4096):
            digest.update(part.contiguous().numpy())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """What every tool gets. No image is in two of train, validation and test; pretrain shares none with the last two.

    pretrain: what pretraining sees, train itself or more (STL-10). test: empty (length 0, no labels) where nothing
    could be scored on it, that is for an unlabelled folder. classes: from train, or None where unlabelled.
    image_size: natural side in pixels (224 for folder, shards and hf). mean, std: per channel, in 0..1 (`STATISTICS`).
    skipped: file or folder → why it was left out. ignored: kind → how many files of it were never looked at: ".heic",
    "without suffix"; folders that were not entered end in "/" ("@eaDir/").
    """

    name: str
    pretrain: Images | Streamed
    train: Images | Streamed
    validation: Images | Streamed
    test: Images | Streamed
    classes: tuple[str, ...] | None
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """"images.train" → "1,164 images, 0f3c…", and so on: what tells these images, labels and classes from others.

        They are part of the identity of a run that sees them (core/identity.py), and the same wherever the files lie.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.pretrain is not self.train:
            splits["pretrain"] = self.pretrain
        found = {f"images.{role}": f"{len(split):,} images, {split.fingerprint()[:16]}" for role, split in splits.items()}
        if self.classes:
            labels = hashlib.sha256()
            for split in splits.values():
                labels.update(b"none" if split.labels is None else split.labels.numpy().tobytes())
            names = ", ".join(self.classes[:3]) + (", …" if len(self.classes) > 3 else "")
            every = hashlib.sha256("\n".join(self.classes).encode()).hexdigest()[:8]
            found |= {"images.labels": labels.hexdigest()[:16], "images.classes": f"{len(self.classes)} ({names}; {every})"}
        return found


def load(
    name: str, root: str | None = None, *, download: bool = True, labels: str = "auto", max_corrupt: float = 0.2,
    validation: float = 0.1, seed: int = 0, progress: Progress | None = None,
) -> Dataset:
    """The data set called `name` (one of NAMES, or hf:<name> for hf with that root).

    root: the folder, for folder and shards; a Hub name, local folder or .parquet, for hf; where torchvision's sets lie or go
    (default data/). validation: the share of train carved for it where there is no official split, at most 5,000
    images, stratified, a function of `seed`; a carved test split is the same for every seed. labels: "none" drops
    them. progress: called as progress(done, total) while files are checked. Raises ValueError, one line, with the fix.
    """
    name, root = ("hf", name[3:]) if name.startswith("hf:") else (name, root)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, cutoff=0.4)
        raise ValueError(f"data={name} is not known{f'; did you mean {near[0]}?' if near else ''}; there are "
                         f"{', '.join(NAMES)}")
    if labels not in LABELS:
        raise ValueError(f"data.labels={labels} is not one of {', '.join(LABELS)}")
    if not 0 <= validation < 1:
        raise ValueError(f"data.validation={validation:g} must be at least 0 and below 1, a share of train")
    if not 0 <= max_corrupt <= 1:
        raise ValueError(f"data.max_corrupt={max_corrupt:g} must lie between 0 and 1, a share of all files")
    if name == "folder":
        return load_folder(root, labels, max_corrupt, validation, seed, progress)
    if name == "shards":
        return load_shards(root, labels, max_corrupt, validation, seed, progress)
    if name == "hf":
        return load_hub(root, download, labels, max_corrupt, validation, seed, progress)

    train, test, classes, *unlabelled = READERS[name](name, root, download)
    train, held_out, test = split_off(train, None, test, validation, seed)
    pretrain = train
    if unlabelled:
        pretrain = Images(torch.cat((train.images, unlabelled[0])), None, f"{name}/pretrain")
    for split, role in ((train, "train"), (held_out, "validation"), (test, "test")):
        split.source = f"{name}/{role}"
        split.labels = None if labels == "none" else split.labels
    mean, std = STATISTICS.get(name) or _statistics(train.images)
    _, channels, side, _ = train.images.shape
    classes = None if labels == "none" else classes
    return Dataset(name, pretrain, train, held_out, test, classes, channels, side, mean, std)


# -------------------------------------------------------------------------------------------------------- who gets what


def split_off(
    train: Images | Streamed, validation: Images | Streamed | None, test: Images | Streamed | None, share: float,
    seed: int, test_share: float = TEST_SHARE,
) -> tuple[Images | Streamed, ...]:
    """(train, validation, test), where what is None is carved out of train: first test, which knows no seed, so that
    an encoder pretrained with one seed never meets its own images in the test of another; then validation."""
    if test is None:
        train, test = _carve(train, test_share, TEST_CAP, 0, FOR_TEST)
    if validation is None:
        train, validation = _carve(train, share, VALIDATION_CAP, seed, FOR_VALIDATION)
    return train, validation, test


def _carve(split: Images | Streamed, share: float, cap: int, seed: int, use: int) -> tuple[Any, Any]:
    """(what stays, what is carved), both in the order of `split`; stratified where it is labelled."""
    labels = torch.zeros(len(split), dtype=torch.int64) if split.labels is None else split.labels
    counts = labels.bincount()
    # A file keeps its random number when another one turns out unreadable: it belongs to the row, not the position.
    rows = split.rows if isinstance(split, Streamed) else torch.arange(len(split))
    order = random.keys(seed, use, rows, random.SPLIT).argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(split)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    carved = rank < _apportion(counts, share, cap)[labels]
    return split.select((~carved).nonzero().flatten()), split.select(carved.nonzero().flatten())


def _apportion(counts: Tensor, share: float, cap: int) -> Tensor:
    """How many of each class to carve.  counts: C int64 → C int64.

    round(share · N), at most `cap`, by largest remainders; at least one of every class that keeps another (while that
    respects `cap`), never all of a class.
    """
    one = (counts > 1).long()
    if share == 0 or not one.any():
        return torch.zeros_like(counts)
    if one.sum() > cap:
        one = torch.zeros_like(counts)
    total = max(min(round(share * int(counts.sum())), cap), int(one.sum()))
    beyond = (counts.double() * total / counts.sum() - one).clamp(min=0)
    beyond *= (total - one.sum()) / beyond.sum().clamp(min=1e-9)
    take = beyond.floor().long()
    take[(beyond - take).argsort(descending=True, stable=True)[: total - int((one + take).sum())]] += 1
    return (one + take).minimum((counts - 1).clamp(min=0))


def assemble(
    name: str, where: str, splits: Mapping[str, Streamed], classes: tuple[str, ...] | None, skipped: dict[str, str],
    max_corrupt: float, validation: float, seed: int, progress: Progress | None, image_size: int = 224,
) -> Dataset:
    """Streamed splits ("train", maybe "validation" and "test") → a Dataset without their unreadable files.

    Where labelled data has an official validation split and no test that can be scored, as ImageNet, that split is the
    test, since published figures are figures on it, and validation is carved out of train: nothing is ever selected on
    what is reported.
    """
    if classes and "test" not in splits and "validation" in splits:
        splits = {"train": splits["train"], "test": splits["validation"]}
    for split in splits.values():
        split.max_corrupt = max_corrupt
    splits, unreadable = drop_unreadable(splits, max_corrupt, progress)
    if not len(splits["train"]):
        raise ValueError(f"data.root={where} has no readable image in train; see {next(iter(unreadable), where)}")
    train, held_out, test = split_off(splits["train"], splits.get("validation"), splits.get("test"), validation, seed,
                                      TEST_SHARE if classes else 0)
    return Dataset(name, train, train, held_out, test, classes, 3, image_size, *STATISTICS["imagenet"],
                   skipped | unreadable)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = images.double() / 255
    return tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist())


# ------------------------------------------------------------------------------------------------------- sets in memory


def _digits(name: str, root: str | None, download: bool) -> tuple:
    """scikit-learn's 1,797 digits, 8 × 8, of 17 grey levels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Images(torch.from_numpy(images)[:, None], torch.from_numpy(digits.target).long()), None, TEN


def _mnist(name: str, root: str | None, download: bool) -> tuple:
    """MNIST or Fashion-MNIST: four .gz files right in root (or Debian's, of the latter), else torchvision's."""
    classes = FASHION if name == "fashion_mnist" else TEN
    folder = Path(root).expanduser() if root else DEBIAN_FASHION_MNIST if name == "fashion_mnist" else Path("data")
    if (folder / "train-images-idx3-ubyte.gz").exists():
        parts = [(_idx(folder / f"{part}-images-idx3-ubyte.gz", 3), _idx(folder / f"{part}-labels-idx1-ubyte.gz", 1))
                 for part in ("train", "t10k")]
    else:
        official = [_torchvision(name, root, download, train=train) for train in (True, False)]
        parts = [(part.data, part.targets) for part in official]
    for images, labels in parts:
        if len(images) != len(labels) or (labels >= len(classes)).any():
            raise ValueError(f"data.root={folder}: {name} has {len(images)} images and {len(labels)} labels up to "
                             f"{int(labels.max())}; its files do not belong together, put them there anew")
    return *(Images(images[:, None], labels.long()) for images, labels in parts), classes


def _idx(path: Path, dimensions: int) -> Tensor:
    """Yann LeCun's format: two zero bytes, type (8: uint8), number of dimensions, their big-endian sizes, the data."""
    try:
        data = gzip.decompress(path.read_bytes())
        if data[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError(f"no uint8 array of {dimensions} dimensions")
        shape = np.frombuffer(data, ">u4", data[3], 4).astype(int).tolist()
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy())
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise ValueError(f"data.root: {path} is missing or broken ({reason(error)}); put it there anew") from None


def _cifar(name: str, root: str | None, download: bool) -> tuple:
    parts = [_torchvision(name, root, download, train=train) for train in (True, False)]
    splits = [Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
              for part in parts]
    return *splits, tuple(parts[0].classes)


def _stl10(name: str, root: str | None, download: bool) -> tuple:
    """STL-10: pretraining sees the 100,000 unlabelled images and, of the 5,000 labelled ones, those of train."""
    both, test = (_torchvision(name, root, download, split=split) for split in ("train+unlabeled", "test"))
    labelled = int((both.labels >= 0).sum())
    images = torch.from_numpy(both.data)
    train = Images(images[:labelled].contiguous(), torch.from_numpy(both.labels[:labelled].astype(np.int64)))
    test = Images(torch.from_numpy(test.data).contiguous(), torch.from_numpy(test.labels.astype(np.int64)))
    return train, test, STL, images[labelled:]


def _torchvision(name: str, root: str | None, download: bool, **which: Any) -> Any:
    """torchvision's own data set object; where it is not there yet, one process of many downloads it."""
    from filelock import FileLock  # comes with torch
    from torchvision import datasets

    kind, holds = {
        "mnist": (datasets.MNIST, "MNIST/raw"), "fashion_mnist": (datasets.FashionMNIST, "FashionMNIST/raw"),
        "cifar10": (datasets.CIFAR10, "cifar-10-batches-py"), "cifar100": (datasets.CIFAR100, "cifar-100-python"),
        "stl10": (datasets.STL10, "stl10_binary"),
    }[name]
    folder = Path(root or "data").expanduser()
    try:
        return kind(folder, download=False, **which)
    except Exception:  # not found, or damaged: RuntimeError, and of half a file whatever pickle and numpy raise
        fix = f"set data.root to the folder that holds {holds}"
        if name == "fashion_mnist":
            fix += ", or apt-get install dataset-fashion-mnist and leave data.root out"
        if not download:
            raise ValueError(f"{name} is not in data.root={folder}, or damaged; {fix}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            return kind(folder, download=True, **which)
    except Exception as error:  # URLError, RuntimeError, OSError, a broken archive …
        why = reason(error)
        raise ValueError(f"{name} is not in data.root={folder} and its download failed ({why}); {fix}") from None


def _synthetic(name: str, root: str | None, download: bool) -> tuple:
    """2,000 images, 3 × 32 × 32, of ten classes: five shapes with vertical or with horizontal stripes.

    Place, size, colours, which of both is bright, and the stripes' phase and width are drawn anew for each image; none
    tells the class, and no class is another's mirror image, so flips, crops and colour jitter keep it.
    """
    number, side, shapes = 2_000, 32, ("disc", "square", "triangle", "cross", "ring")
    index = torch.arange(number)
    labels = index % 10
    u = random.uniform(0, 0, index, random.SPLIT, 12 + side * side)
    draws, noise = u[:, :12, None, None].unbind(1), u[:, 12:].view(number, 1, side, side)  # each number,1,1
    place = torch.arange(side) + 0.5
    radius = 6 + 5 * draws[0]
    x = (place[None, None, :] - 11 - 10 * draws[1]) / radius  # number,1,side
    y = (place[None, :, None] - 11 - 10 * draws[2]) / radius  # number,side,1
    far, near = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    distance = (x.square() + y.square()).sqrt()
    each = torch.stack((distance < 1, far < 0.85, (y < 0.8) & (x.abs() < (y + 1) / 2), (near < 0.3) & (far < 1),
                        (distance < 1) & (distance > 0.5)))  # 5,number,side,side
    inside = each[labels % 5, index][:, None]
    along = torch.where((labels < 5)[:, None, None], place[None, None, :], place[None, :, None])  # number,side,side
    stripes = ((along / (3 + 2 * draws[3]) + draws[4]) % 1 < 0.5)[:, None]
    bright, dark = 0.55 + 0.45 * torch.stack(draws[5:8], 1), 0.45 * torch.stack(draws[8:11], 1)  # number,3,1,1
    swap = draws[11][:, None] < 0.5
    figure, ground = torch.where(swap, dark, bright), torch.where(swap, bright, dark)
    pixels = torch.where(inside, torch.where(stripes, figure, 0.5 * (figure + ground)), ground) + 0.1 * (noise - 0.5)
    classes = tuple(f"{shape}, {way} stripes" for way in ("vertical", "horizontal") for shape in shapes)
    return Images((pixels * 255).round().clamp(0, 255).to(torch.uint8), labels), None, classes


READERS = {
    "digits": _digits, "mnist": _mnist, "fashion_mnist": _mnist, "cifar10": _cifar, "cifar100": _cifar,
    "stl10": _stl10, "synthetic": _synthetic,
}
