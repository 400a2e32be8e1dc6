"""A folder of images → WebDataset shards, on a disk or in an object store: the images' own bytes, classes beside them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from core import counter_rng
from core.errors import RunError
from core.home import expand
from core.run import counting
from vision.decode import reason
from vision.folder import LABELS_OF_FOLDERS, files_by_split
from vision.store import LISTING, Store, is_remote
from vision.streamed import Files, Progress


class Target:
    """Where files are put: whole under their name, or not at all. A folder, or a URL; what it holds already is kept."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.store = Store(place) if is_remote(place) else None
        self.folder = Path(tempfile.gettempdir()) if self.store else expand(place)
        there = [one.name for one in self.store.list()] if self.store else map(str, self.folder.glob("**/*.tar"))
        if any(name.endswith(".tar") for name in there):
            raise ValueError(f"to={place} has shards already; give another folder, or remove them")
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[io.BufferedRandom]:
        """A file to write, which gets its name once it is complete."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
            try:
                yield file
                file.flush()
                if self.store:
                    self.store.write(name, Path(file.name))
                else:
                    os.chmod(file.name, 0o644)
                    os.replace(file.name, self.folder / name)
            finally:
                Path(file.name).unlink(missing_ok=True)


def write(source: str, target: str, images: int, seed: int, labels: str, progress: Progress) -> list[str]:
    """Shards of `images` images each, in an order that `seed` draws, so that each is like the others.  → their names.

    Splits are those of the folder (train/, val/, test/). Beside them: classes.txt, and the list of files for HTTP servers.
    Raises ValueError, StoreError, OSError.
    """
    collection = files_by_split(source if is_remote(source) else str(expand(source)), labels)
    there, names = Target(target), []
    total, done = sum(map(len, collection.splits.values())), 0
    for role, split in collection.splits.items():
        assert isinstance(split, Files), split
        order = counter_rng.permutation(seed, 0, len(split))
        for number, part in enumerate(order.split(images)):
            names.append(f"{role}-{number:05d}.tar")
            with there.file(names[-1]) as file:
                _write_shard(file, split, part, number * images)
            progress(done := done + len(part), total)
    if collection.classes:
        names.append("classes.txt")
        with there.file(names[-1]) as file:
            file.write("".join(f"{name}\n" for name in collection.classes).encode())
    with there.file(LISTING) as file:
        file.write("".join(f"{name}\n" for name in names).encode())
    return names


def _write_shard(file: io.BufferedRandom, split: Files, indices: Tensor, first: int) -> None:
    """A tar file of these images.  first: number of the first of them, by which members are named"""
    split.ready(indices)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, index in enumerate(indices.tolist(), first):
            with split.open(index) as image:
                _add(tar, f"{number:08d}{split.path(index).suffix.lower()}", image.read())
            if split.labels is not None:
                _add(tar, f"{number:08d}.cls", b"%d" % int(split.labels[index]))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vision.shards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="source", required=True, help="a folder of images, or its URL in an object store")
    parser.add_argument("--to", required=True, help="a folder, or a URL: s3://bucket/folder, gs://…, az://…")
    parser.add_argument("--images", type=int, default=5000, help="images a shard")
    parser.add_argument("--seed", type=int, default=0, help="of the images' order")
    parser.add_argument("--labels", choices=LABELS_OF_FOLDERS, default="auto", help="whether sub-folders are classes")
    options = parser.parse_args(argv)
    try:
        if options.images < 1:
            raise ValueError(f"images={options.images} must be 1 or more")
        with counting("writing shards") as progress:
            names = write(options.source, options.to, options.images, options.seed, options.labels, progress)
    except (ValueError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "code", 2)
    except OSError as error:
        print(f"error: to={options.to}: {reason(error)}", file=sys.stderr)
        return 2
    shards = sum(name.endswith(".tar") for name in names)
    print(f"{options.to}: {shards:,} shards; read them by --data shards --data.root {options.to}")
    return 0
