"""Names → data sets: images, labels and splits, none of which is ever part of another.

`load("digits")` and the other small sets lie in memory as uint8; `folder`, `shards` and `hf` are decoded on
demand (vision/folder.py, vision/shards.py, vision/hub.py). Downloads are torchvision's and Hugging Face's own; torchvision,
scikit-learn and datasets are imported only by the sets that need them.
"""

from __future__ import annotations

import difflib
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import counter_rng
from vision.decode import reason
from vision.folder import load_folder
from vision.hub import load_hub
from vision.shards import load_shards
from vision.splits import STATISTICS, Dataset, Images, complete_splits
from vision.streamed import Progress

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10", "synthetic", "folder", "shards", "hf")
LABELS = ("auto", "folders", "none")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # apt-get install dataset-fashion-mnist

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
TEN = tuple("0123456789")


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
    train, held_out, test = complete_splits(train, None, test, validation, seed)
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


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = images.double() / 255
    return tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist())


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
    u = counter_rng.uniform(0, 0, index, counter_rng.SPLIT, 12 + side * side)
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
