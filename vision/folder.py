"""Images that stay on disk: any pile of files, decoded one at a time, in memory that hardly grows with their number.

Three parts: `decode` turns a file into an upright 8-bit image or says why it cannot; `Streamed` and `Files` are splits
that decode on demand; `scan` and `load_folder` find out what a folder holds. Nothing here keeps a file open or a thread
alive, so a split travels to DataLoader workers by fork or by pickle.
"""

from __future__ import annotations

import copy
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from vision.datasets import Dataset

Progress = Callable[[int, int], None]  # (done, total)

SUFFIXES = frozenset(b".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own line, 256 MiB of 24-bit pixels: beyond it a file is unreadable
CHECK_ALL = 5_000  # up to so many files are all decoded up front …
CHECK_SOME = 500  # … of more than that, so many, evenly spread
SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_TURN = Image.Transpose
TURNS = dict(enumerate((  # EXIF orientation 2 … 8 → what turns it upright
    _TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM, _TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE,
    _TURN.ROTATE_90), start=2))


class Unreadable(ValueError):
    """This one file cannot be used; the text is a short reason without its path."""


# ----------------------------------------------------------------------------------------------------- one file → image


def decode(file: BinaryIO, at_least: int | None = None, mode: str = "RGB") -> Image.Image:
    """The first frame, upright, 8 bits a channel, as `mode` "RGB" or "L".

    Transparency is laid over white; deep grey is scaled to 0..255 by its range (`_eight_bits`). With `at_least` a JPEG
    may come out smaller, its short side still ≥ at_least, at a fraction of the time and memory (libjpeg's DCT scaling).
    The suffix does not matter, the content does. Raises Unreadable.
    """
    try:
        image = _identify(file)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unreadable(f"{width} by {height} pixels, the limit is {MAX_PIXELS:,} in all")
        image.draft(mode, (at_least, at_least) if at_least else None)
        image.load()
        orientation = _orientation(image)
        if image.mode == "F" or image.mode.startswith("I"):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        return image.transpose(TURNS[orientation]) if orientation in TURNS else image
    except Unreadable:
        raise
    except Exception as error:  # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, KeyError …
        raise Unreadable(reason(error)) from error


def _identify(file: BinaryIO) -> Image.Image:
    """`Image.open` without its warning about many pixels, which names no file, and without formats never promised."""
    prefix = file.read(16)
    if not prefix:
        raise Unreadable("empty file")
    if "WEBP" not in Image.OPEN or "TIFF" not in Image.OPEN:
        Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts(prefix) is True:  # a text instead of True: known, but not in this build of Pillow
            file.seek(0)
            return factory(file, "")
    raise Unreadable("not an image, or of an unknown format")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a good picture with broken EXIF is still a good picture
        return 1


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """H,W of 16-bit, 32-bit or float grey → H,W uint8, scaled by range and never clipped.

    The range is the type's where the values fit it (integers: 0..65535; floats: 0..1, else 0..255), so that brightness
    means the same in every image of a set; otherwise the image's own least to greatest finite value.
    """
    finite = grey[np.isfinite(grey)]
    if not finite.size:
        raise Unreadable("no finite pixel")
    low, high = float(finite.min()), float(finite.max())
    for usual in (65535.0,) if grey.dtype.kind in "iu" else (1.0, 255.0):
        if low >= 0 and high <= usual:
            low, high = 0.0, usual
            break
    scaled = (grey.astype(np.float32) - low) * (255 / max(high - low, 1e-30))
    return np.rint(np.clip(np.nan_to_num(scaled, posinf=255, neginf=0), 0, 255)).astype(np.uint8)


def reason(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (words.splitlines() or [""])[0][:100] or type(error).__name__


# --------------------------------------------------------------------------------------------------- splits that stream


class Streamed:
    """A split decoded on demand. A subclass says where image i's bytes are (`_open`) and what it is called (`where`).

    rows: N int64, which entries of the shared source this split has, ascending; labels: N int64 or None.
    skipped: path → reason of the files found unreadable by *this process's copy* after the check up front.
    """

    def __init__(self, rows: Tensor, labels: Tensor | None = None, max_corrupt: float = 0.2) -> None:
        self.rows, self.labels, self.max_corrupt = rows, labels, max_corrupt
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: Tensor) -> Streamed:
        """A split of these positions that shares the source."""
        part = copy.copy(self)
        part.rows, part.skipped = self.rows[positions], {}
        part.labels = None if self.labels is None else self.labels[positions]
        return part

    def read(self, index: int, at_least: int | None = None, mode: str = "RGB") -> Image.Image:
        """Image `index` as `decode` gives it. Raises Unreadable; IndexError past the end."""
        row = int(self.rows[index])
        try:
            with self._open(row) as file:
                return decode(file, at_least, mode)
        except OSError as error:
            raise Unreadable(reason(error)) from error

    def readable(self, index: int, at_least: int | None = None, mode: str = "RGB") -> tuple[Image.Image, int]:
        """Image `index`, or the next one (index + 1 modulo N, …) that can be read, and the index it really is.

        So the same file stands in whoever asks. Raises ValueError once the skipped are over `max_corrupt` of the split.
        """
        for used in ((index + step) % len(self) for step in range(len(self))):
            where = self.where(used)
            if where in self.skipped:
                continue
            try:
                return self.read(used, at_least, mode), used
            except Unreadable as error:
                self.skipped[where] = str(error)
                refuse_many(self.skipped, len(self), self.max_corrupt)
        raise ValueError("no image can be read any more, first: " + _first(self.skipped))

    def resized(self, indices: Tensor, size: int) -> Tensor:
        """→ B,3,size,size uint8: torchvision's Resize(size), CenterCrop(size), of the file that `readable` gives.

        A JPEG's own downscaling goes no further than 2 × size, so that it shows little in the result. Where `skipped`
        has grown meanwhile, a file stands for its neighbour in path order, mostly of the same class.
        """

        def one(index: int) -> np.ndarray:  # size,size,3
            return np.asarray(_centre(self.readable(index, at_least=2 * size)[0], size))

        threads = 1 if torch.utils.data.get_worker_info() else _threads()
        with ThreadPoolExecutor(threads) as pool:
            pixels = list(pool.map(one, indices.tolist()))
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def name(self, index: int) -> str:
        """A short printable name that tells image `index` from all others of the data set."""
        return self.where(index)

    def where(self, index: int) -> str:
        raise NotImplementedError

    def _open(self, row: int) -> BinaryIO:
        raise NotImplementedError


class Files(Streamed):
    """Image files under one root. All paths lie end to end in one buffer: path r is buffer[offsets[r]:offsets[r + 1]],
    relative to root, in the bytes of the file system; 60 bytes a file or so, where a list of str takes 150."""

    def __init__(self, root: str | Path, buffer: np.ndarray, offsets: np.ndarray, labels: Tensor | None = None,
                 max_corrupt: float = 0.2) -> None:
        super().__init__(torch.arange(len(offsets) - 1), labels, max_corrupt)
        self.root, self.buffer, self.offsets = os.fsencode(root), buffer, offsets

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self._path(int(self.rows[index]))))

    def name(self, index: int) -> str:
        return _printable(self._relative(int(self.rows[index])))

    def where(self, index: int) -> str:
        return _printable(self._path(int(self.rows[index])))

    def _relative(self, row: int) -> bytes:
        return self.buffer[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def _path(self, row: int) -> bytes:
        return os.path.join(self.root, self._relative(row))

    def _open(self, row: int) -> BinaryIO:
        return open(self._path(row), "rb")


def _centre(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, then the centre square, in one step: a 1 × 10,000 strip never becomes 224 × 2,240,000."""
    box = []
    for side in image.size:
        scaled = int(size * side / min(image.size))  # torchvision's rounding, of the side …
        start = round((scaled - size) / 2)  # … and of the crop
        box.append((start * side / scaled, (start + size) * side / scaled))
    (left, right), (top, bottom) = box
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, right, bottom))


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)  # so many images of up to MAX_PIXELS may be decoded at once


def _printable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _first(skipped: dict[str, str]) -> str:
    return ", ".join(f"{path} ({reason})" for path, reason in list(skipped.items())[:3])


def refuse_many(skipped: dict[str, str], total: int, limit: float) -> None:
    """ValueError if more than `limit` of `total` files are unreadable."""
    if len(skipped) > limit * total:
        raise ValueError(f"{len(skipped)} of {total} images are unreadable ({len(skipped) / total:.0%}), more than "
                         f"data.max_corrupt={limit:g} allows; first: {_first(skipped)}")


def drop_unreadable(
    splits: dict[str, Streamed], max_corrupt: float, progress: Progress | None = None
) -> tuple[dict[str, Streamed], dict[str, str]]:
    """The splits without the files that do not decode, and those files with their reasons.

    All files are tried up to CHECK_ALL; of more, CHECK_SOME spread evenly, so that a hopeless set is refused before
    training, and `readable` deals with the rest. Raises ValueError where more than `max_corrupt` of the tried fail.
    """
    total = sum(map(len, splits.values()))
    share = 1 if total <= CHECK_ALL else CHECK_SOME / total
    tried = []
    for name, split in splits.items():
        count = ceil(len(split) * share)
        tried += [(name, i * len(split) // count) for i in range(count)]

    def why_not(which: tuple[str, int]) -> str | None:
        name, index = which
        try:
            splits[name].read(index, at_least=1)  # a JPEG is read to its end, but only 1/64 of the pixels is made
        except Unreadable as error:
            return str(error)

    skipped, bad = {}, {name: [] for name in splits}
    with ThreadPoolExecutor(_threads()) as pool:
        for done, ((name, index), why) in enumerate(zip(tried, pool.map(why_not, tried), strict=True), 1):
            if why is not None:
                skipped[splits[name].where(index)] = why
                bad[name].append(index)
            if progress:
                progress(done, len(tried))
    refuse_many(skipped, len(tried), max_corrupt)
    for name, split in splits.items():
        good = torch.ones(len(split), dtype=torch.bool)
        good[bad[name]] = False
        splits = splits | {name: split.select(good.nonzero().flatten())}
    return splits, skipped


# ---------------------------------------------------------------------------------------------- what does a folder hold


def scan(
    root: str | Path, within: str = "", labels: str = "auto", classes: tuple[str, ...] | None = None
) -> tuple[Files, tuple[str, ...] | None, Counter, dict[str, str]]:
    """The images below root/within, in an order that no file system decides; hidden and other files are passed over.

    → files (names relative to root), classes or None, how many other files of which suffix, closed folders → reason.
    Labelled by first-level sub-folder where at least two have images and none lies beside them (`labels` "auto"; with
    "folders" anything else is an error; "none" never). Given `classes` (those of train), folders must be among them,
    and a split with none of them, as many a test/, is unlabelled.
    """
    others, closed = Counter(), {}
    buffer, offsets, groups, group_of = bytearray(), array("q", [0]), {}, array("q")
    for path, group in _walk(os.fsencode(root), os.fsencode(within), others, closed):
        buffer += path
        offsets.append(len(buffer))
        group_of.append(groups.setdefault(group, len(groups)))
    files = Files(root, np.frombuffer(buffer, np.uint8), np.frombuffer(offsets, np.int64))

    names = tuple(_printable(group) for group in groups)  # "" for images directly in the folder
    if labels == "none":
        classes = None
    elif classes is None:
        classes = names if len(names) > 1 and "" not in names else None
        if classes is None and labels == "folders":
            raise ValueError(f"data.labels=folders needs two sub-folders with images, and no image beside them, in "
                             f"{Path(root, within)}; data.labels=none takes it unlabelled")
    elif not set(names) & set(classes):
        classes = None
    elif strange := sorted(set(names) - set(classes)):
        raise ValueError(f"data.root={root}: {within} has images in {strange[0] or 'no class folder'!r}, which is no "
                         f"class of train; move them, or set data.labels=none")
    if classes is not None:
        number = {name: k for k, name in enumerate(classes)}
        class_of = torch.tensor([number[name] for name in names])
        files.labels = class_of[torch.from_numpy(np.frombuffer(group_of, np.int64))]
    return files, classes, others, closed


def _walk(root: bytes, within: bytes, others: Counter, closed: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
    """(path relative to root, first-level folder below `within` or b"") of every image, each real folder once."""
    seen: set[tuple[int, int]] = set()  # a symlink to a folder already read, or to an ancestor, adds nothing
    stack = [(within, b"")]
    while stack:
        folder, group = stack.pop()
        try:
            status = os.stat(os.path.join(root, folder))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found = _listing(os.path.join(root, folder))
        except OSError as error:
            closed[_printable(os.path.join(root, folder))] = reason(error)
            continue
        folders = []
        for name, kind in found:
            if kind == "folder":
                folders.append((os.path.join(folder, name), group or name))
            elif kind == "file" and _suffix(name) in SUFFIXES:
                yield os.path.join(folder, name), group
            else:
                others[_printable(_suffix(name)) or "no suffix"] += 1
        stack.extend(reversed(folders))


def _listing(folder: bytes) -> list[tuple[bytes, str]]:
    """(name, "folder", "file" or "other") of what is not hidden, in the order of the names' bytes."""

    def kind(entry: os.DirEntry) -> str:
        try:
            if entry.is_dir():
                return "folder"
            # A symlink to nothing counts as a file, so as to be listed as unreadable; a pipe would block its reader.
            return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "other"
        except OSError:  # a symlink to itself
            return "file"

    with os.scandir(folder) as entries:
        return sorted((entry.name, kind(entry)) for entry in entries if not entry.name.startswith(b"."))


def _suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1].lower()


def _official_splits(root: Path) -> dict[str, str]:
    """Role → sub-folder: official splits where train/ exists, else {"train": ""}, the whole folder.

    A folder train that has no folders, beside others that are no splits (bus/, car/, train/), is a class.
    """
    folders = {name.lower(): name for name in _folders(root)}
    splits = {role: folders[name] for role, names in SPLITS.items() for name in names if name in folders}
    if "train" not in splits:
        return {"train": ""}
    only_train_and_others = len(splits) == 1 and len(folders) > 1
    return {"train": ""} if only_train_and_others and not _folders(root / splits["train"]) else splits


def _folders(folder: Path) -> list[str]:
    return [os.fsdecode(name) for name, kind in _listing(os.fsencode(folder)) if kind == "folder"]


def load_folder(
    root: str | Path | None, labels: str = "auto", max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None, image_size: int = 224,
) -> Dataset:
    """A folder of images as a data set: train/, val/, test/ as they are, and what is missing carved out of train.

    A labelled folder without test/ gives 20 % (at most 10,000) for it, the same whatever the seed; an unlabelled one
    has an empty test split, for there is nothing to score. An official split without class folders beside a labelled
    train cannot be scored either: it is left out, which `skipped` says. Raises ValueError, one line, with the fix.
    """
    from vision.datasets import assemble

    root = _existing(root)
    files, others, skipped, classes = {}, Counter(), {}, None
    for role, folder in _official_splits(root).items():
        split, found, other, closed = scan(root, folder, labels, classes)
        if role == "train":
            classes, labels = found, "auto" if found else "none"  # classes come from train alone
        others += other
        skipped |= closed
        if classes and found is None and len(split):
            skipped[str(root / folder)] = f"{len(split)} images without class folders, so not used for {role}"
        elif len(split) or role == "train":
            files[role] = split
    if not len(files["train"]):
        raise ValueError(f"data.root={root} {_contents(others, skipped)}; image files end in "
                         f"{' '.join(sorted(map(bytes.decode, SUFFIXES)))}")

    return assemble("folder", str(root), files, classes, skipped, max_corrupt, validation, seed, progress, image_size)


def _existing(root: str | Path | None) -> Path:
    if not root:
        raise ValueError("data=folder needs data.root, the folder that holds the images")
    root = Path(root).expanduser()
    if not root.exists():
        raise ValueError(f"data.root={root} does not exist")
    if not root.is_dir():
        raise ValueError(f"data.root={root} is a file; give the folder that holds the images")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise ValueError(f"data.root={root} cannot be listed: {reason(error)}") from None
    return root


def _contents(others: Counter, skipped: dict[str, str]) -> str:
    if not others:
        return f"has no image that can be reached: {_first(skipped)}" if skipped else "is empty"
    listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4))
    return f"has {others.total()} files, none an image ({listed}{', …' if len(others) > 4 else ''})"
