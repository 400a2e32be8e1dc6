"""The images that neighbors are searched among: a folder, its features, and faiss's exact search by cosine similarity.

No torch here.
"""
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from core.machine import cores
from deploy.model import Model, RequestError
from vision import decode, raster
from vision.listing import class_name, ignored_note, listed, printable, walk

BATCH = 64  # images whose features are computed at a time


class Gallery:
    """files: below root, one a row of features N,D."""

    def __init__(self, root: Path, files: list[Path], features: np.ndarray):
        self.root, self.files = root, files
        self.index = faiss.IndexFlatIP(features.shape[1])
        self.index.add(_normalized(features))

    def __len__(self) -> int:
        return len(self.files)

    def label(self, i: int) -> str | None:
        """The class as in a training folder: the first folder of root/class/…/file; None of root/file."""
        parts = self.files[i].relative_to(self.root).parts
        return class_name(os.fsencode(parts[0])) if len(parts) > 1 else None

    def name(self, i: int) -> str:
        """The file's name in printable characters, whatever bytes the file system has."""
        return printable(os.fsencode(self.files[i].name))

    def nearest(self, features: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Features D → (number, cosine similarity) of the `count` nearest, the nearest first."""
        similarities, numbers = self.index.search(_normalized(features[None]), min(count, len(self)))
        return [(int(i), float(s)) for i, s in zip(numbers[0], similarities[0], strict=True)]


def _normalized(features: np.ndarray) -> np.ndarray:
    features = np.ascontiguousarray(features, np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True)
class _Features:
    """What is cached for a list of files. The names are the keys of the cache file."""

    good: np.ndarray  # N numbers of the files that can be read
    features: np.ndarray  # N,D
    bad: np.ndarray  # M numbers of the others
    why: np.ndarray  # M reasons


def read_gallery(root: Path, model: Model, megapixels: float, cache: Path) -> tuple[Gallery, dict[str, str]]:
    """(a folder's images by this model; the paths left out, in printable characters → why).

    The images are those of a training folder (`vision.listing.walk`).  cache: folder that keeps the features for the next
    start.  Raises ValueError where there is no image.
    """
    if not root.is_dir():
        raise ValueError(f"gallery={root}: no such folder")
    ignored, closed = Counter(), {}
    suffixes = decode.SUFFIXES if model.preprocessing.pixels is None else raster.SUFFIXES
    files = sorted(root / os.fsdecode(path) for path, _ in walk(os.fsencode(root), b"", ignored, closed, suffixes))
    if not files:
        raise ValueError(f"gallery={root} holds no image{f' ({listed(ignored)})' if ignored else ''}")
    cached = cache / f"{_fingerprint(root, files, model)}.npz"
    if (features := _load(cached)) is None:
        features = _compute(files, model, megapixels)
        if len(features.good):
            _save(cached, features)
    if not len(features.good):
        raise ValueError(f"gallery={root}: none of its {len(files)} images can be read")
    left_out = {printable(os.fsencode(root)): ignored_note(ignored)} if ignored else {}
    bad = zip(features.bad, features.why, strict=True)
    left_out |= closed | {printable(os.fsencode(files[int(i)])): str(why) for i, why in bad}
    return Gallery(root, [files[i] for i in features.good], features.features), left_out


def _compute(files: list[Path], model: Model, megapixels: float) -> _Features:
    def read(i: int) -> np.ndarray | str:
        try:
            return model.preprocess(files[i].read_bytes(), megapixels)
        except OSError as error:
            return error.strerror or type(error).__name__
        except RequestError as error:
            return str(error)

    good, rows, bad = [], [np.zeros((0, 1))], {}
    with ThreadPoolExecutor(cores()) as pool:
        for numbers in _with_progress([range(i, min(i + BATCH, len(files))) for i in range(0, len(files), BATCH)]):
            images = dict(zip(numbers, pool.map(read, numbers), strict=True))
            bad |= {i: image for i, image in images.items() if isinstance(image, str)}
            readable = [i for i in numbers if i not in bad]
            if readable:
                good += readable
                rows.append(model(np.stack([images[i] for i in readable])).features)
    features = np.concatenate(rows[1:] or rows)
    return _Features(np.array(good, np.int64), features, np.array(list(bad)), np.array(list(bad.values())))


def _with_progress(batches: list[range]) -> Iterator[range]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("features of the gallery", total=batches[-1].stop)
        for batch in batches:
            yield batch
            bar.update(task, completed=batch.stop)


def _fingerprint(root: Path, files: list[Path], model: Model) -> str:
    digest = hashlib.sha256(model.path.read_bytes())
    digest.update(json.dumps(model.preprocessing.json, sort_keys=True).encode())
    for path in files:
        digest.update(os.fsencode(path.relative_to(root)))
        try:
            stat = path.stat()
            # Neither `cp -p` nor rsync can restore inode and ctime, so a changed file of equal size and time is seen.
            digest.update(f" {stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {stat.st_ctime_ns}\n".encode())
        except OSError:  # a symlink without a target: it will be left out
            digest.update(b" none\n")
    return digest.hexdigest()[:16]


def _load(path: Path) -> _Features | None:
    """What `_save` wrote; None where it is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _Features(**{name: arrays[name] for name in ("good", "features", "bad", "why")})
    except Exception:  # whatever a truncated file makes numpy or zipfile raise
        return None


def _save(path: Path, features: _Features) -> None:
    """Write the whole file or none. Where the folder cannot be written, the next start computes the features again."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **asdict(features))
        if _load(temporary) is None:
            raise OSError("it was not read as it was written")
        temporary.rename(path)
    except OSError as error:
        print(f"note: features of the gallery are not kept in {path.parent}: {error.strerror or error}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
