"""WebDataset shards: the images and labels that the library `webdataset` reads, every one by its number."""
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from broken_files import encoded
from commands import run
from PIL import Image

from vision import datasets, shard_index, shards
from vision.shards import load_shards

SIDE = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nolabel" / "shards"


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def write(root: Path, name: str, numbers, labelled: bool = True) -> None:
    """A shard by the library's own writer."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(root / name)) as tar:
        for n in numbers:
            more = {"cls": n % 3, "json": {"number": n}} if labelled else {}
            tar.write({"__key__": f"{n:06d}", "png": encoded(picture(n)).getvalue(), **more})


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "wds"
    write(root, "set-train-0000.tar", range(40))
    write(root, "set-train-0001.tar", range(40, 70))
    write(root, "set-validation-00.tar", range(70, 90))
    return root


def theirs(root: Path, pattern: str) -> list[tuple[np.ndarray, int]]:
    files = sorted(map(str, root.glob(pattern)))
    found = webdataset.WebDataset(files, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    return [(image, int(label)) for image, label in found]


def test_it_is_what_webdataset_reads(root):
    found, _ = shard_index.read_index([bytes(path) for path in sorted(root.glob("*train*"))])
    split = shards.Shards([bytes(path) for path in sorted(root.glob("*train*"))], found)
    expected = theirs(root, "*train*")
    assert len(split) == len(expected) == 70
    for i, (image, label) in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(split.read(i)), image)
        assert int(shard_index.label_texts(found)[found["label"][i]]) == label
    assert split.name(41) == "set-train-0001.tar:000041.png"
    again = pickle.loads(pickle.dumps(split.select(torch.tensor([69, 3]))))
    np.testing.assert_array_equal(np.asarray(again.read(0)), picture(69))
    assert again.where(1) == f"{root}/set-train-0000.tar:000003.png"


def test_splits_and_classes(root):
    (root / "classes.txt").write_text("cat\ndog\nbird\n")
    found = datasets.load("shards", str(root))
    assert found.classes == ("cat", "dog", "bird")
    assert (len(found.train), len(found.validation), len(found.test)) == (63, 7, 20)
    numbers = [int(found.test.name(i)[-10:-4]) for i in range(20)]
    assert numbers == list(range(70, 90))  # the official validation split is what is reported
    assert found.test.labels.tolist() == [n % 3 for n in numbers]
    assert len({found.train.name(i) for i in range(63)} | {found.validation.name(i) for i in range(7)}) == 70
    assert datasets.load("shards", str(root), labels="none").classes is None


def test_splits_by_folder_and_without_labels(tmp_path):
    for name in ("train/a.tar", "val/b.tar"):
        write(tmp_path / "wds", name, range(10), labelled=False)
    found = load_shards(tmp_path / "wds")
    assert (len(found.train), len(found.validation), len(found.test), found.classes) == (10, 10, 0, None)


def test_headers_are_read_once_until_a_shard_changes(root, cache, monkeypatch):
    first = load_shards(root)
    walks = []
    real = shard_index.read_index
    monkeypatch.setattr(shard_index, "read_index", lambda paths, *rest: walks.append(1) or real(paths))
    again = load_shards(root)
    assert not walks
    assert again.train.fingerprint() == first.train.fingerprint()
    assert [again.train.name(i) for i in range(len(again.train))] == [first.train.name(i) for i in range(len(first.train))]
    write(root, "set-train-0001.tar", range(40, 60))
    changed = load_shards(root)
    assert len(walks) == 1  # the split that changed, alone
    assert len(changed.train) + len(changed.validation) == 60
    assert changed.train.fingerprint() != first.train.fingerprint()
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]


def test_a_place_without_a_cache_works(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert len(load_shards(root).train) == 63


def test_broken_images_and_shards_are_left_out_and_listed(root):
    good = encoded(picture(200)).getvalue()
    packed(root / "set-train-0002.tar", ("a.jpg", b"no image"), ("a.cls", b"1"), ("b.png", good), ("b.cls", b"2"))
    whole = (root / "set-train-0001.tar").read_bytes()
    (root / "set-train-0001.tar").write_bytes(whole[: len(whole) // 2])
    found = load_shards(root)
    listed = " ".join(found.skipped)
    assert "set-train-0002.tar:a.jpg" in listed
    assert f"{root}/set-train-0001.tar" in listed
    used = {split.name(i) for split in (found.train, found.validation) for i in range(len(split))}
    assert {f"set-train-0000.tar:{n:06d}.png" for n in range(40)} | {"set-train-0002.tar:b.png"} < used
    assert 10 < len(used) - 41 < 20  # of the 30 that were in the shard's first half


def packed(path: Path, *members: tuple[str, bytes]) -> None:
    """A shard in this order; the library's writer sorts a sample's members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_images_without_a_label_among_labelled_ones_are_left_out(tmp_path):
    image = encoded(picture(0)).getvalue()
    root = tmp_path / "wds"
    root.mkdir()
    packed(root / "a.tar", *((f"{n}.{kind}", image if kind == "png" else b"1") for n in range(9) for kind in ("png", "cls")))
    packed(root / "b.tar", ("x.png", image), ("y.png", image), ("y.cls", b"0"), ("y.mask.png", image))
    found = load_shards(root, validation=0.0)
    assert found.classes == ("0", "1")
    assert len(found.train) + len(found.test) == 10  # neither x nor the mask
    assert found.skipped == {f"{root}, train": "1 of 11 images have no .cls of a class of train"}
    packed(root / "b.tar", *((f"{n}.png", image) for n in range(30)))
    found = load_shards(root, validation=0.0)
    assert (found.classes, len(found.train)) == (None, 39)
    assert found.skipped == {f"{root}, labels": "30 of 39 images have no .cls beside them, so none is used"}


def test_a_shard_cut_between_members_is_listed(root):
    path = root / "set-train-0001.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[12]
    path.write_bytes(path.read_bytes()[: last.offset])  # whole members, and no mark of the end
    assert load_shards(root).skipped == {str(path): "read up to its image 4: no mark of its end"}


def test_a_damaged_header_costs_its_member(root):
    path = root / "set-train-0001.tar"  # images 40 … 69: a .cls, a .json and a .png each
    with tarfile.open(path) as tar:
        png, cls = (next(m for m in tar if m.name == name) for name in ("000045.png", "000050.cls"))
    data = bytearray(path.read_bytes())
    headers = [member.offset_data - tarfile.BLOCKSIZE for member in (png, cls)]
    for header in headers:
        data[header : header + 7] = b"damaged"
    path.write_bytes(data)
    found = load_shards(root)
    numbers = {int(split.name(i)[-10:-4]) for split in (found.train, found.validation) for i in range(len(split))}
    assert numbers == set(range(70)) - {45, 50}  # one image lost, and one's label
    damaged = [why for key, why in found.skipped.items() if key.startswith(f"{path}, byte")]
    assert len(damaged) == 2
    assert all("members in between are lost" in why for why in damaged)


def test_damaged_pixels_cost_their_image(root):
    path = root / "set-train-0001.tar"
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name == "000045.png")
    data = bytearray(path.read_bytes())
    data[member.offset_data + 60] ^= 0xFF
    path.write_bytes(data)
    found = load_shards(root)
    assert list(found.skipped) == [f"{path}:000045.png"]
    assert len(found.train) + len(found.validation) == 69


def test_what_follows_the_end_of_a_shard_is_told(root):
    path = root / "set-train-0001.tar"
    path.write_bytes(path.read_bytes() + (root / "set-train-0000.tar").read_bytes())  # as cat a.tar b.tar
    found = load_shards(root)
    assert len(found.train) + len(found.validation) == 70
    (where, why), = found.skipped.items()
    assert where.startswith(f"{path}, byte")
    assert "what follows the mark of its end was not read" in why


def test_a_shard_swapped_at_equal_size_and_time_is_read_anew(tmp_path):
    def labels(flip: int) -> dict[str, int]:
        members = [(f"{i}.{kind}", encoded(picture(0)).getvalue() if kind == "png" else b"%d" % ((i + flip) % 2))
                   for i in range(20) for kind in ("png", "cls")]
        path = tmp_path / "wds" / "a.tar"
        path.parent.mkdir(exist_ok=True)
        packed(path.with_suffix(".new"), *members)
        os.utime(path.with_suffix(".new"), (1e9, 1e9))
        os.replace(path.with_suffix(".new"), path)
        train = load_shards(path.parent).train
        return {train.name(i): int(train.labels[i]) for i in range(len(train))}

    first, second = labels(0), labels(1)
    assert all(first[name] != second[name] for name in first.keys() & second.keys())


def test_without_a_home_folder_it_is_read_each_time(root, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    assert len(load_shards(root).train) == 63


def test_a_broken_cache_is_made_anew(root, cache):
    first = load_shards(root)
    for path in cache.glob("*.npz"):
        path.write_bytes(b"")
    assert load_shards(root).train.fingerprint() == first.train.fingerprint()
    assert all(path.stat().st_size for path in cache.glob("*.npz"))


def test_folders_behind_symlinks_are_read_once(tmp_path):
    write(tmp_path / "elsewhere", "b.tar", range(10))
    write(tmp_path / "wds", "train/a.tar", range(10, 30))
    (tmp_path / "wds" / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "wds" / "train" / "again").symlink_to(tmp_path / "wds")
    found = load_shards(tmp_path / "wds", validation=0.0)
    assert (len(found.train), len(found.test)) == (20, 10)


@pytest.mark.parametrize(("prepare", "said"), [
    (lambda root: str(root / "none"), "does not exist"),
    (lambda root: (root / "empty").mkdir() or str(root / "empty"), "no .tar for train (nothing else)"),
    (lambda root: (root / "packed").mkdir() or (root / "packed/a.tar.gz").touch() or str(root / "packed"), "(1 .tar.gz)"),
    (lambda root: (root / "classes.txt").write_text("one\n") and str(root), "names 1 classes"),
])
def test_a_mistake_is_one_line(root, prepare, said):
    with pytest.raises(ValueError, match=r"data\.root|classes\.txt") as error:
        load_shards(prepare(root))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_are_asked_for_and_missing(tmp_path):
    write(tmp_path / "wds", "a.tar", range(5), labelled=False)
    with pytest.raises(ValueError, match=r"labels=folders: 5 of 5 images"):
        load_shards(tmp_path / "wds", labels="folders")


@pytest.mark.long
def test_a_run_on_shards_is_a_run_on_the_same_files(root, tmp_path):
    """Bit for bit: the same images in the same order give the same views, whatever holds them."""
    files = tmp_path / "files"
    for n in range(90):
        path = files / ("val" if n >= 70 else "train") / f"{n:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(n)).save(path)
    words = ["--image_size=8", "--encoder=test_resnet", "--batch_size=16", "--method.hidden=16", "--method.dim=8", "--steps=4"]
    words += ["--evals=1", "--log_every=1", "--data.labels=none"]
    for data, place in (("shards", root), ("folder", files)):
        where = f"--data={data}", f"--data.root={place}", f"--out={tmp_path / data}"
        ended = run(*words, *where, logs=tmp_path / f"{data}-logs")
        assert ended.code == 0, ended.err
    losses = [[json.loads(line).get("loss") for line in (tmp_path / data / "metrics.jsonl").read_text().splitlines()]
              for data in ("shards", "folder")]
    assert losses[0] == losses[1]
    assert len([loss for loss in losses[0] if loss]) >= 4
