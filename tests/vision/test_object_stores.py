"""Data in object stores: images, identity and batches as on a disk, whatever the server does; few requests; clear errors."""
import math
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_files import encoded
from object_stores import BUCKET, Proxy, environment, http_files, moto, proxy
from PIL import Image

from core.processes import World
from vision import datasets, mirror
from vision.augment import Augmentation
from vision.loaders import BatchSampler, loader
from vision.reading import Reading
from vision.shards import load_shards
from vision.store import LISTING, Store, StoreError, StoreSettings
from vision.store_cache import DiskCache

SHARDS, EACH, SIDE = 6, 40, 12
WORLD = World(0, 1, 0, 1, torch.device("cpu"))
QUICK = StoreSettings(retry_minutes=0.02)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def write_shards(root: Path) -> Path:
    import webdataset

    root.mkdir(parents=True)
    for shard in range(SHARDS):
        with webdataset.TarWriter(str(root / f"set-train-{shard:04d}.tar"), mtime=0) as tar:
            for n in range(shard * EACH, (shard + 1) * EACH):
                tar.write({"__key__": f"{n:06d}", "png": encoded(picture(n)).getvalue(), "cls": n % 3})
    (root / "classes.txt").write_text("cat\ndog\nbird\n")
    return root


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("moto.server")
    with moto() as server:
        yield server


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("local") / "wds")


@pytest.fixture(scope="module")
def url(s3, shards) -> str:
    return s3.upload(shards, "wds")


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No credentials of whoever runs the tests; a cache of this test alone."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def direct(s3, monkeypatch):
    for name, value in environment(s3.port).items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture
def through(s3, monkeypatch):
    """A proxy before the server, which the environment names."""
    state = Proxy(s3.port)
    with proxy(state) as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        yield state


def batches(data, workers: int = 0, steps: int = 14) -> list:
    deal = BatchSampler(len(data.pretrain), 16, 0, WORLD, windows=data.pretrain.windows)
    views = loader(data.pretrain, Augmentation(SIDE, data.mean, data.std), deal, 3, workers).batches(0, steps)
    return [(batch.indices, *batch.views) for batch in views]


def assert_equal_batches(near: list, far: list) -> None:
    assert len(near) == len(far)
    assert all(torch.equal(one, other) for a, b in zip(near, far, strict=True) for one, other in zip(a, b, strict=True))


def test_a_run_on_failing_requests_sees_the_bytes_of_a_local_one(shards, url, through):
    """More than an epoch, a fifth of the requests failing; small blocks, so that there are many of them."""
    reading = Reading(window=2)
    near = datasets.load("shards", str(shards), reading=reading)
    through.failing, through.slow = 0.2, 0.2
    far = datasets.load("shards", url, reading=reading)
    assert through.failed
    assert far.fingerprints == near.fingerprints
    assert (far.classes, far.skipped, far.ignored) == (near.classes, {}, near.ignored)
    assert far.train.where(0).startswith(f"{url}/set-train-0000.tar:")
    assert_equal_batches(batches(near), batches(far))


def test_requests_are_far_fewer_than_images(shards, url, through, monkeypatch):
    """Reading everything, twice, costs one request a block, whichever images are asked for."""
    monkeypatch.setattr(mirror, "BLOCK", 1 << 16)
    far = load_shards(url)
    batches(far, steps=20)
    blocks = sum(math.ceil(path.stat().st_size / mirror.BLOCK) for path in shards.glob("*.tar"))
    assert len(through.reads()) == blocks + 1  # and classes.txt
    assert blocks < SHARDS * EACH / 4
    assert len(set(through.reads())) == len(through.reads())


def test_failures_are_met_at_every_request(url, through, monkeypatch):
    monkeypatch.setattr(mirror, "BLOCK", 1 << 14)
    through.failing, through.slow = 0.5, 0.05
    split = load_shards(url).train
    for index in range(0, len(split), 9):
        np.testing.assert_array_equal(np.asarray(split.read(index)), picture(int(split.name(index)[-10:-4])))
    assert through.failed > 10  # of some 60 requests: every kind twice


def test_the_cache_keeps_to_its_budget_and_memory_to_blocks(url, through, monkeypatch):
    """Room for five blocks, the data take more: what was used longest ago goes, and every image is still right."""
    monkeypatch.setattr(mirror, "BLOCK", 1 << 14)
    monkeypatch.setattr(mirror, "DiskCache", lambda budget: DiskCache(5 << 14))
    split = load_shards(url, reading=Reading(window=1)).train
    cache = split.access.cache
    for index in torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist():
        np.testing.assert_array_equal(np.asarray(split.read(index)), picture(int(split.name(index)[-10:-4])))
        assert 0 < sum(path.stat().st_size for path in cache.entries.iterdir()) <= 5 << 14
    newest = sorted(cache.entries.iterdir(), key=lambda path: path.stat().st_mtime_ns)[-1]
    assert newest.name.startswith(os.readlink(split._piece(int(split.rows[index])).path).decode())
    assert not list(cache.folder.glob("*.tmp"))
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", asked) for _, path, asked in through.reads() if path.endswith("tar")]
    assert max(int(found[2]) - int(found[1]) + 1 for found in ranges) == 1 << 14


def test_a_window_that_the_cache_cannot_do_without(url, direct):
    data = load_shards(url)
    data.pretrain.access.cache.budget = 1000
    deal = BatchSampler(len(data.pretrain), 16, 0, WORLD)
    with pytest.raises(ValueError, match=r"data\.cache=.* cannot hold .* set data\.window=8"):
        loader(data.pretrain, Augmentation(SIDE, data.mean, data.std), deal, 3)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_shard_that_changes_under_a_run_stops_it(shards, direct, s3, workers):
    far = s3.upload(shards, f"changing{workers}")
    data = load_shards(far, reading=Reading(window=2))
    for file in data.train.access.cache.entries.iterdir():
        file.unlink()
    body = (shards / "set-train-0003.tar").read_bytes()
    s3.client.put_object(Bucket=BUCKET, Key=f"changing{workers}/set-train-0003.tar", Body=body[:-512] + b"\1" * 512)
    with pytest.raises(StoreError, match=r"set-train-0003\.tar: the object in bucket pictures has changed since the run began"):
        batches(data, workers)


@pytest.mark.long
def test_workers_are_forked_from_a_process_without_connections(shards, url, through):
    reading = Reading(window=2)
    through.failing, through.slow = 0.2, 0.2
    near, far = (datasets.load("shards", str(root), reading=reading) for root in (shards, url))
    assert_equal_batches(batches(near), batches(far, workers=2))


# ------------------------------------------------------------------------------------------------------- mistakes, in one line


def failure(root: str, store: StoreSettings = QUICK) -> str:
    with pytest.raises((StoreError, ValueError)) as error:
        load_shards(root, reading=Reading(store=store))
    assert "\n" not in str(error.value)
    assert getattr(error.value, "code", 2) == 2
    return str(error.value)


def test_mistakes_are_one_line(direct, monkeypatch):
    assert "there is no bucket elsewhere" in failure("s3://elsewhere/wds")
    assert "bucket pictures has no object below this prefix" in failure("s3://pictures/wsd")
    assert "hold" not in (text := failure("s3://key:secret@pictures/wds"))
    assert "secret" not in text
    assert "AWS_ACCESS_KEY_ID" in text
    assert "sig" not in failure("az://pictures/wds?sig=abc")
    assert "stores are s3://, gs://" in failure("ftp://pictures/wds")
    with pytest.raises(ValueError, match=r"data\.cache=0\.01 must be at least 0\.1"):
        StoreSettings(0.01)


def test_no_credentials(s3, monkeypatch):
    """Nobody answers where cloud machines ask for theirs."""
    for name, value in environment(s3.port).items():
        if "KEY" not in name:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    text = failure("s3://pictures/wds")
    assert "no access to bucket pictures with these credentials (none in the environment); set AWS_ACCESS_KEY_ID" in text


def test_a_server_that_does_not_answer(url, through):
    through.failing = 1.0
    with pytest.raises(StoreError, match=r"did not answer for 0\.02 minutes .*data\.retry_minutes") as error:
        load_shards(url, reading=Reading(store=QUICK))
    assert error.value.code == 1
    assert len(through.seen) > 2


def test_without_the_package(url, direct, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    assert "needs the package obstore: uv sync" in failure(url)


# ------------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder") / "photos"
    for n in range(30):
        path = root / ("cat", "dog's 100%", "größe #1")[n % 3] / f"{n:02d} a+b.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(n)).save(path)
    (root / "notes.md").write_text("not an image")
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
    rows = [f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names) if name.endswith("png")]
    (root / "labels.csv").write_text("".join(["path,class\n", *rows]))
    return root


@pytest.mark.parametrize("labels", ["auto", "labels.csv"])
def test_a_folder_in_a_bucket_is_that_folder(folder, direct, s3, labels):
    for marker in ("photos/", "photos/cat/"):  # consoles make such objects for folders
        s3.client.put_object(Bucket=BUCKET, Key=marker, Body=b"")
    s3.client.put_object(Bucket=BUCKET, Key="photos/cat", Body=b"no file beside a folder of its name")
    far = datasets.load("folder", s3.upload(folder, "photos"), labels=labels)
    assert [note for note in far.notes if "1 objects have names that no file can have" in note]
    near = datasets.load("folder", str(folder), labels=labels)
    assert far.fingerprints == near.fingerprints
    assert (far.classes, far.ignored, far.skipped) == (near.classes, near.ignored, {})
    assert [far.train.name(i) for i in range(len(far.train))] == [near.train.name(i) for i in range(len(near.train))]
    assert_equal_batches(batches(near, steps=1), batches(far, steps=1))
    assert far.train.where(0).startswith("s3://pictures/photos/")


def test_many_objects_are_listed_by_pages(folder, s3, through):
    through.page = 7
    names = [one.name for one in Store(s3.upload(folder, "pages")).list()]
    assert names == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert len(through.seen) == 5  # of 32 objects


def test_http_servers(shards, folder, tmp_path):
    for root, kind in ((shards, "shards"), (folder, "folder")):
        copy = tmp_path / kind
        copy.mkdir()
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(root)).write_bytes(path.read_bytes())
        with http_files(copy) as port:
            assert "needs this file, which names the others" in failure(f"http://127.0.0.1:{port}")
            names = [str(path.relative_to(copy)) for path in sorted(copy.rglob("*")) if path.is_file()]
            (copy / LISTING).write_text("".join(f"./{name}\n" for name in names))
            far = datasets.load(kind, f"http://127.0.0.1:{port}")
            near = datasets.load(kind, str(root))
            assert far.fingerprints == near.fingerprints
            np.testing.assert_array_equal(np.asarray(far.train.read(3)), np.asarray(near.train.read(3)))


# -------------------------------------------------------------------------------------------------------------- writing shards


def test_shards_of_a_folder(folder, direct, s3, tmp_path, capsys):
    """The images' own bytes and their classes, as tarfile reads them; the same in a bucket."""
    from vision.shards import main

    here, there = tmp_path / "shards", "s3://pictures/written"
    for target in (str(here), there):
        assert main(["--from", str(folder), "--to", target, "--images", "12"]) == 0
    assert main(["--from", str(folder), "--to", there]) == 2
    assert "has shards already" in capsys.readouterr().err
    originals = {path.read_bytes(): path.parent.name for path in folder.rglob("*.png")}
    classes, found = (here / "classes.txt").read_text().splitlines(), {}
    for path in sorted(here.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        assert len(members) in (24, 12)
        found |= {data: classes[int(members[name[:-3] + "cls"])] for name, data in members.items() if name.endswith("png")}
        assert s3.client.get_object(Bucket=BUCKET, Key=f"written/{path.name}")["Body"].read() == path.read_bytes()
    assert found == originals
    assert load_shards(here).fingerprints == load_shards(there).fingerprints
    assert main(["--from", str(tmp_path / "none"), "--to", str(tmp_path / "x")]) == 2
