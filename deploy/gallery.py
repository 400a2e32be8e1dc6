"""Images to look for neighbours among: a folder, its features, and faiss's exact search by cosine similarity. No torch here."""
import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np

from core.machine import cores
from deploy.model import Model, Refused
from vision.decode import SUFFIXES

BATCH = 64  # images whose features are taken at a time


class Gallery:
    """files: as told.  features: N,D."""

    def __init__(self, root: Path, files: list[Path], features: np.ndarray):
        self.root, self.files = root, files
        self.index = faiss.IndexFlatIP(features.shape[1])
        self.index.add(_unit(features))

    def __len__(self) -> int:
        return len(self.files)

    def label(self, i: int) -> str | None:
        """The class: of root/class/…/file the first folder; of root/file none."""
        parts = self.files[i].relative_to(self.root).parts
        return printable(parts[0]) if len(parts) > 1 else None

    def name(self, i: int) -> str:
        return printable(self.files[i].name)

    def nearest(self, features: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Features D → (number, cosine similarity) of the `count` nearest, the nearest first."""
        similarities, numbers = self.index.search(_unit(features[None]), min(count, len(self)))
        return [(int(i), float(s)) for i, s in zip(numbers[0], similarities[0], strict=True)]


def printable(name: str) -> str:
    """A file name as text, also where its bytes are no UTF-8: JSON could not hold it otherwise."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.ascontiguousarray(features, np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def read(root: Path, model: Model, megapixels: float, kept: Path) -> tuple[Gallery, dict[Path, str]]:
    """A folder's images by this model, and those left out with why.  kept: folder where features are kept for the next start.

    Raises ValueError where there is no image.
    """
    if not root.is_dir():
        raise ValueError(f"gallery={root}: no such folder")
    files = sorted(p for p in root.rglob("*") if os.fsencode(p.suffix.lower()) in SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"gallery={root} holds no image")
    cache = kept / f"{_fingerprint(root, files, model)}.npz"
    known = _kept(cache)
    if known is not None:
        good, features, skipped = known
    else:
        good, features, skipped = _described(files, model, megapixels)
        if len(good):
            _keep(cache, good=good, features=features, bad=list(skipped), why=list(skipped.values()))
    if not len(good):
        raise ValueError(f"gallery={root}: none of its {len(files)} images can be read")
    return Gallery(root, [files[i] for i in good], features), {files[int(i)]: str(why) for i, why in skipped.items()}


def _described(files: list[Path], model: Model, megapixels: float) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """(numbers of the files that can be read, their features, number → why of the others)."""
    good, rows, skipped = [], [], {}

    def take(i: int):
        try:
            return i, model.taken(files[i].read_bytes(), megapixels)
        except (Refused, OSError) as error:
            return i, str(error)

    with ThreadPoolExecutor(cores()) as pool:
        for start in _counted(range(0, len(files), BATCH), len(files)):
            found = list(pool.map(take, range(start, min(start + BATCH, len(files)))))
            skipped |= {i: why for i, why in found if isinstance(why, str)}
            there = [(i, image) for i, image in found if not isinstance(image, str)]
            if there:
                good += [i for i, _ in there]
                rows.append(model(np.stack([image for _, image in there])).features)
    return np.array(good, np.int64), np.concatenate(rows) if rows else np.zeros((0, 1)), skipped


def _counted(starts: range, total: int) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("features of the gallery", total=total)
        for start in starts:
            yield start
            bar.update(task, completed=min(start + starts.step, total))


def _fingerprint(root: Path, files: list[Path], model: Model) -> str:
    digest = hashlib.sha256(model.path.read_bytes())
    digest.update(json.dumps(model.preprocessing.json, sort_keys=True).encode())
    for path in files:
        stat = path.stat()
        digest.update(os.fsencode(path.relative_to(root)) + b" %d %d\n" % (stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def _kept(path: Path) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    """What `_keep` wrote; None where it is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return found["good"], found["features"], dict(zip(found["bad"], found["why"], strict=True))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _keep(path: Path, **arrays) -> None:
    """Whole or not there. Where the folder cannot be written, the next start computes the features again."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **arrays)
        if _kept(temporary) is None:
            raise OSError("it was not read as it was written")
        temporary.rename(path)
    except OSError as error:
        print(f"note: features of the gallery are not kept in {path.parent}: {error.strerror or error}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
