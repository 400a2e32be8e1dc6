"""Images to look for neighbours among: a folder, its features, and faiss's exact search by cosine similarity. No torch here."""
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np

from core.machine import cores
from deploy.model import Model, Refused
from vision.listing import class_name, ignored_note, listed, printable, walk

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
        """The class, as of a training folder: of root/class/…/file the first folder; of root/file none."""
        parts = self.files[i].relative_to(self.root).parts
        return class_name(os.fsencode(parts[0])) if len(parts) > 1 else None

    def name(self, i: int) -> str:
        """The file's name in printable characters, whatever bytes the file system has."""
        return printable(os.fsencode(self.files[i].name))

    def nearest(self, features: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Features D → (number, cosine similarity) of the `count` nearest, the nearest first."""
        similarities, numbers = self.index.search(_unit(features[None]), min(count, len(self)))
        return [(int(i), float(s)) for i, s in zip(numbers[0], similarities[0], strict=True)]


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.ascontiguousarray(features, np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def read(root: Path, model: Model, megapixels: float, kept: Path) -> tuple[Gallery, dict[str, str]]:
    """A folder's images by this model, and what is left out, in printable characters → why.

    The images are those of a training folder (`vision.listing.walk`).  kept: folder where features are kept for the next
    start.  Raises ValueError where there is no image.
    """
    if not root.is_dir():
        raise ValueError(f"gallery={root}: no such folder")
    ignored, closed = Counter(), {}
    files = sorted(root / os.fsdecode(path) for path, _ in walk(os.fsencode(root), b"", ignored, closed))
    if not files:
        raise ValueError(f"gallery={root} holds no image{f' ({listed(ignored)})' if ignored else ''}")
    cache = kept / f"{_fingerprint(root, files, model)}.npz"
    if found := _kept(cache):
        good, features, skipped = found["good"], found["features"], dict(zip(found["bad"], found["why"], strict=True))
    else:
        good, features, skipped = _described(files, model, megapixels)
        if len(good):
            _keep(cache, good=good, features=features, bad=list(skipped), why=list(skipped.values()))
    if not len(good):
        raise ValueError(f"gallery={root}: none of its {len(files)} images can be read")
    left_out = {printable(os.fsencode(root)): ignored_note(ignored)} if ignored else {}
    left_out |= closed | {printable(os.fsencode(files[int(i)])): str(why) for i, why in skipped.items()}
    return Gallery(root, [files[i] for i in good], features), left_out


def _described(files: list[Path], model: Model, megapixels: float) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """(numbers of the files that can be read, their features, number → why of the others)."""
    good, rows, skipped = [], [], {}

    def take(i: int):
        try:
            return i, model.taken(files[i].read_bytes(), megapixels)
        except OSError as error:
            return i, error.strerror or type(error).__name__
        except Refused as error:
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
        digest.update(os.fsencode(path.relative_to(root)))
        try:
            stat = path.stat()
            # Inode and ctime: neither `cp -p` nor rsync can set those back, so a file of equal size and time is another.
            digest.update(f" {stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {stat.st_ctime_ns}\n".encode())
        except OSError:  # a symlink to nothing: it will be left out
            digest.update(b" none\n")
    return digest.hexdigest()[:16]


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """What `_keep` wrote; None where it is not there, or broken."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in ("good", "features", "bad", "why")}
    except Exception:  # whatever half a file makes numpy or zipfile raise
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
