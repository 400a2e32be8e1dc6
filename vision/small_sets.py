"""Small data sets in memory, as uint8: scikit-learn's digits, torchvision's, and a synthetic one.

Downloads are torchvision's own; torchvision and scikit-learn are imported only by the sets that need them.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import counter_rng
from vision.decode import reason
from vision.splits import Images

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # apt-get install dataset-fashion-mnist
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
TEN = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class InMemory:
    """A data set as it is published."""

    train: Images
    test: Images | None  # None where there is no official one
    classes: tuple[str, ...]
    unlabelled: Tensor | None = None  # N,C,H,W uint8: further images for pretraining


def _digits(name: str, root: str | None, download: bool) -> InMemory:
    """scikit-learn's 1,797 digits, 8 × 8, of 17 grey levels: a row has 64 of them and its class.

    Its file is read without importing it, which takes longer than all else here.
    """
    (package,) = find_spec("sklearn").submodule_search_locations
    rows = torch.from_numpy(np.loadtxt(Path(package, "datasets", "data", "digits.csv.gz"), delimiter=","))
    images = (rows[:, :64] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    return InMemory(Images(images, rows[:, 64].long()), None, TEN)


def _mnist(name: str, root: str | None, download: bool) -> InMemory:
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
    return InMemory(*(Images(images[:, None], labels.long()) for images, labels in parts), classes)


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


def _cifar(name: str, root: str | None, download: bool) -> InMemory:
    parts = [_torchvision(name, root, download, train=train) for train in (True, False)]
    splits = [Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
              for part in parts]
    return InMemory(*splits, tuple(parts[0].classes))


def _stl10(name: str, root: str | None, download: bool) -> InMemory:
    """STL-10: pretraining sees the 100,000 unlabelled images and, of the 5,000 labelled ones, those of train."""
    both, test = (_torchvision(name, root, download, split=split) for split in ("train+unlabeled", "test"))
    labelled = int((both.labels >= 0).sum())
    images = torch.from_numpy(both.data)
    train = Images(images[:labelled].contiguous(), torch.from_numpy(both.labels[:labelled].astype(np.int64)))
    test = Images(torch.from_numpy(test.data).contiguous(), torch.from_numpy(test.labels.astype(np.int64)))
    return InMemory(train, test, STL, images[labelled:])


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


def _synthetic(name: str, root: str | None, download: bool) -> InMemory:
    """2,000 images, 3 × 32 × 32, of ten classes: five shapes with vertical or with horizontal stripes.

    Place, size, colors, which of both is bright, and the stripes' phase and width are random for each image; none of them
    depends on the class, and no class is another's mirror image, so flips, crops and color jitter keep it.
    """
    number, side, shapes = 2_000, 32, ("disc", "square", "triangle", "cross", "ring")
    index = torch.arange(number)
    labels = index % 10
    u = counter_rng.uniform(0, 0, index, counter_rng.SPLIT, 12 + side * side)
    random, noise = u[:, :12, None, None].unbind(1), u[:, 12:].view(number, 1, side, side)  # each number,1,1
    place = torch.arange(side) + 0.5
    radius = 6 + 5 * random[0]
    x = (place[None, None, :] - 11 - 10 * random[1]) / radius  # number,1,side
    y = (place[None, :, None] - 11 - 10 * random[2]) / radius  # number,side,1
    far, near = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    distance = (x.square() + y.square()).sqrt()
    each = torch.stack((distance < 1, far < 0.85, (y < 0.8) & (x.abs() < (y + 1) / 2), (near < 0.3) & (far < 1),
                        (distance < 1) & (distance > 0.5)))  # 5,number,side,side
    inside = each[labels % 5, index][:, None]
    along = torch.where((labels < 5)[:, None, None], place[None, None, :], place[None, :, None])  # number,side,side
    stripes = ((along / (3 + 2 * random[3]) + random[4]) % 1 < 0.5)[:, None]
    bright, dark = 0.55 + 0.45 * torch.stack(random[5:8], 1), 0.45 * torch.stack(random[8:11], 1)  # number,3,1,1
    swap = random[11][:, None] < 0.5
    figure, ground = torch.where(swap, dark, bright), torch.where(swap, bright, dark)
    pixels = torch.where(inside, torch.where(stripes, figure, 0.5 * (figure + ground)), ground) + 0.1 * (noise - 0.5)
    classes = tuple(f"{shape}, {way} stripes" for way in ("vertical", "horizontal") for shape in shapes)
    return InMemory(Images((pixels * 255).round().clamp(0, 255).to(torch.uint8), labels), None, classes)


READERS = {
    "digits": _digits, "mnist": _mnist, "fashion_mnist": _mnist, "cifar10": _cifar, "cifar100": _cifar,
    "stl10": _stl10, "synthetic": _synthetic,
}
