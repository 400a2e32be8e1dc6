"""Folders of real files: what is found where, which splits it makes, and what a split on disk gives."""

import os
import pickle
import shutil
import tracemalloc
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_files import broken, encoded
from PIL import Image
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from vision import folder, streamed
from vision.folder import load_folder, scan
from vision.streamed import CHECK_SOME, Files

RNG = np.random.default_rng(0)
UPRIGHT = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)  # H,W,C


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256,) * 3).save(path)
    return path


def grey(files: Files) -> list[int]:
    """The grey value of each image that `save` wrote: which image it is."""
    return [files.read(i).getpixel((0, 0))[0] for i in range(len(files))]


def names(files: Files) -> list[str]:
    return [files.name(i) for i in range(len(files))]


def test_content_counts_not_the_suffix(tmp_path):
    (tmp_path / "really.png.jpg").write_bytes(encoded(UPRIGHT).getvalue())
    np.testing.assert_array_equal(np.asarray(load_folder(tmp_path).train.read(0)), UPRIGHT)


# ---------------------------------------------------------------------------------------------------------------- Files


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (33, 97), (16, 16), (7, 9), (1, 1), (64, 64), (200, 31)])
def test_resized_equals_torchvision(tmp_path, size):
    noise = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    for side in (16, 31, 64):
        got = scan(tmp_path).files.resized(torch.tensor([0, 0]), side)
        assert (got.shape, got.dtype) == ((2, 3, side, side), torch.uint8)
        expected = pil_to_tensor(center_crop(resize(Image.fromarray(noise), side), [side, side]))
        # One level: Pillow rounds its coefficients to 22 bits, of another offset in our case.
        assert (got[0].int() - expected.int()).abs().max() <= 1


def test_resized_shows_little_that_a_jpeg_was_read_small(tmp_path):
    y, x = np.mgrid[:512, :640] / 6  # waves 38 pixels long, 5 once resized
    Image.fromarray((127 * (1 + np.sin(x) * np.cos(y))).astype(np.uint8)).save(tmp_path / "x.jpg", quality=95)
    files = scan(tmp_path).files
    assert files.read(0, at_least=128).size == (160, 128)
    expected = pil_to_tensor(center_crop(resize(files.read(0), 64), [64, 64])).int()
    difference = (files.resized(torch.tensor([0]), 64)[0].int() - expected).abs()
    assert difference.max() <= 8  # of 255, measured 7; 17 where it is read at 80 × 64


def test_a_strip_is_resized_without_a_giant(tmp_path):
    strip = np.zeros((2, 10_000, 3), np.uint8)
    strip[:, 4_999:5_001] = 255
    Image.fromarray(strip).save(tmp_path / "x.png")
    tracemalloc.start()
    middle = scan(tmp_path).files.resized(torch.tensor([0]), 224)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert middle[0, 0, 112, 112] == 255


def test_readable_goes_to_the_next_and_remembers(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", 10 * i)
    files = scan(tmp_path).files
    for i in (2, 4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    files.max_corrupt = 0.4
    assert [files.readable(i)[1] for i in (0, 1, 2, 3, 4)] == [0, 1, 3, 3, 0]  # 4 + 1 modulo 5
    assert files.skipped == {str(tmp_path / "2.png"): "empty file", str(tmp_path / "4.png"): "empty file"}
    assert files.resized(torch.tensor([2, 4, 1]), 8)[:, 0, 0, 0].tolist() == [30, 0, 10]
    save(tmp_path / "4.png")
    assert files.readable(4)[1] == 0  # once skipped, always skipped: a run does not depend on when it came back
    assert files.select(torch.tensor([3, 4])).skipped == {}
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"3 of 5 images are unreadable \(60%\).*data.max_corrupt=0.4.*2.png"):
        files.readable(0)
    with pytest.raises(IndexError):
        files.read(5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a machine of one core
def test_files_survive_pickling_and_workers(tmp_path):
    for i in range(6):
        save(tmp_path / f"{'ab'[i % 2]}" / f"{i}.png", 40 * i)
    files = load_folder(tmp_path, validation=0).train
    again = pickle.loads(pickle.dumps(files))
    assert (names(again), grey(again)) == (names(files), grey(files))
    assert torch.equal(again.labels, files.labels)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return files.resized(torch.tensor([index]), 4)[0, 0, 0, 0]

    loaded = torch.utils.data.DataLoader(Items(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(loaded)).tolist() == grey(files)


def test_the_index_of_many_files_is_small(monkeypatch):
    many, path = 200_000, b"some_class_%03d/IMG_20240131_%09d_original.jpeg"  # 50 bytes
    walk = ((path % (i // 1000, i), b"some_class_%03d" % (i // 1000)) for i in range(many))
    monkeypatch.setattr(folder, "walk", lambda *_: walk)
    tracemalloc.start()
    files, classes, *_ = scan("/nowhere")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(files) == many
    assert kept < 20e6  # 200,000 × (50 bytes of path + 8 offset + 8 row + 8 label) = 14.8 MB
    assert peak < 40e6
    assert len(classes) == 200
    assert files.name(123_456) == (path % (123, 123_456)).decode()
    part = files.select(torch.arange(0, many, 2))
    assert part.buffer is files.buffer
    assert part.path(61_728) == Path("/nowhere", files.name(123_456))
    assert part.labels[61_728] == 123


# -------------------------------------------------------------------------------------------------- what a folder holds


def test_flat_nested_and_odd_names(tmp_path):
    odd = ["a b.PNG", "Ünï😀.JpEg", "deep/er/and/deeper/x.webp", "line\nbreak.bmp", "z.tar.gif", ".hidden.png",
           ".git/x.png", "deep/.thumbs/y.png", "notes.txt"]
    for i, name in enumerate(odd):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}.get(path.suffix.lower(), "JPEG")
        path.write_bytes(encoded(np.full((4, 4), i, np.uint8), kind).getvalue())
    raw = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    Path(os.fsdecode(raw)).write_bytes(encoded(UPRIGHT).getvalue())
    dataset = load_folder(tmp_path, validation=0)
    found = [dataset.train.name(i) for i in range(len(dataset.train))]
    assert found == ["a b.PNG", "line\\nbreak.bmp", "z.tar.gif", "Ünï😀.JpEg", "\\xff\\xfe.png", odd[2]]
    assert os.fsencode(dataset.train.path(4)) == raw
    np.testing.assert_array_equal(np.asarray(dataset.train.read(4)), UPRIGHT)
    "".join(found).encode()  # can be printed and written
    assert not any("\n" in name for name in found)
    assert dataset.ignored == {".txt": 1}
    assert dataset.classes is None
    assert dataset.train.labels is None
    assert len(dataset.test) == 0
    assert dataset.test.labels is None
    assert (dataset.channels, dataset.image_size) == (3, 224)


def test_links_are_followed_without_loops(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "far.png", 1)
    root = tmp_path / "root"
    save(root / "a" / "near.png", 2)
    (root / "b").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(root)  # b/up → root: a loop
    (root / "a" / "self").symlink_to(root / "a")
    (root / "c.png").symlink_to(elsewhere / "far.png")
    os.mkfifo(root / "pipe.png")  # opening it would wait for ever
    files = scan(root).files
    assert names(files) == ["c.png", "a/near.png", "b/far.png"]
    assert grey(files) == [1, 2, 1]
    (root / "gone.png").symlink_to(root / "nothing")
    (root / "loop.png").symlink_to(root / "loop.png")
    dataset = load_folder(root, max_corrupt=0.4, validation=0)
    assert names(dataset.train) == names(files)
    assert set(dataset.skipped) == {str(root / "gone.png"), str(root / "loop.png")}
    assert "No such file" in dataset.skipped[str(root / "gone.png")]


def test_order_is_not_the_file_systems(tmp_path, monkeypatch):
    for i, name in enumerate(("b/2.png", "b/10.png", "a/z.png", "B/x.png", "ab/y.png")):
        save(tmp_path / name, i)
    expected = ["B/x.png", "a/z.png", "ab/y.png", "b/10.png", "b/2.png"]
    assert names(scan(tmp_path).files) == expected
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(folder.os, "scandir", Backwards)
    assert names(scan(tmp_path).files) == expected


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    build(tmp_path, open=3, shut=3)
    real = os.scandir

    def guarded(path):
        if os.fsencode(path).endswith(b"shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(folder.os, "scandir", guarded)
    dataset = load_folder(tmp_path, validation=0)
    assert names(dataset.train) == ["open/0.png", "open/1.png", "open/2.png"]
    assert dataset.skipped == {str(tmp_path / "shut"): "Permission denied"}
    for path in (tmp_path / "open").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no image that can be reached: .*shut \(Permission denied\)"):
        load_folder(tmp_path)


def build(root: Path, **splits: int) -> None:
    """build(root, train__cat=3) writes root/train/cat/0.png …; every image has a value of its own."""
    value = 0
    for name, count in splits.items():
        for i in range(count):
            save(root.joinpath(*name.split("__")) / f"{i}.png", value)
            value += 1


def test_labels_from_folders(tmp_path):
    build(tmp_path, cat__deep=10, dog=20, empty=0)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "x.txt").write_text("x")
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("cat", "dog")
    for split, sizes in ((dataset.train, [7, 15]), (dataset.validation, [1, 1]), (dataset.test, [2, 4])):
        assert split.labels.bincount().tolist() == sizes  # 20 % of 30, then 10 % of 24
        assert [name.split("/")[0] for name in names(split)] == [dataset.classes[k] for k in split.labels]
    everything = grey(dataset.train) + grey(dataset.validation) + grey(dataset.test)
    assert sorted(everything) == list(range(30))
    assert dataset.pretrain is dataset.train

    other = load_folder(tmp_path, seed=1)
    assert grey(other.test) == grey(dataset.test)  # no seed may move an image from test to pretraining
    assert grey(other.validation) != grey(dataset.validation)
    plain = load_folder(tmp_path, labels="none")
    assert plain.classes is plain.train.labels is None
    assert (len(plain.train), len(plain.validation), len(plain.test)) == (27, 3, 0)

    save(tmp_path / "stray.png")
    assert load_folder(tmp_path).classes is None
    with pytest.raises(ValueError, match=r"data.labels=folders needs two sub-folders"):
        load_folder(tmp_path, labels="folders")
    assert load_folder(tmp_path, labels="none").classes is None


def test_official_splits(tmp_path):
    build(tmp_path, train__a=6, train__b=6, valid__a=2, valid__b=1, test__b=2)
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("a", "b")
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    assert dataset.validation.labels.tolist() == [0, 0, 1]
    assert dataset.test.labels.tolist() == [1, 1]
    assert names(dataset.test) == ["test/b/0.png", "test/b/1.png"]
    assert dataset.test.path(0) == tmp_path / "test/b/0.png"

    save(tmp_path / "test" / "zebra" / "0.png")
    with pytest.raises(ValueError, match=r"test has images in 'zebra', which is no class of train"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, labels="none").classes is None

    shutil.rmtree(tmp_path / "test")
    dataset = load_folder(tmp_path)  # as ImageNet: its figures are figures on val/, so nothing may be selected there
    assert names(dataset.test) == ["valid/a/0.png", "valid/a/1.png", "valid/b/0.png"]
    assert dataset.test.labels.tolist() == [0, 0, 1]
    assert dataset.validation.labels.tolist() == [0, 1]  # 10 % of 12 is 1, but one of each class
    assert all(name.startswith("train/") for name in names(dataset.validation) + names(dataset.train))
    assert len(dataset.train) == 10
    assert names(load_folder(tmp_path, seed=1).test) == names(dataset.test)
    build(tmp_path, test__images=4)  # as in Tiny ImageNet, whose test has no labels
    dataset = load_folder(tmp_path)
    assert names(dataset.test) == ["valid/a/0.png", "valid/a/1.png", "valid/b/0.png"]
    assert "4 images without class folders" in dataset.skipped[str(tmp_path / "test")]


def test_unlabelled_splits_and_a_class_called_train(tmp_path):
    build(tmp_path / "one", train=10, val=3, test=2)
    dataset = load_folder(tmp_path / "one")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [10, 3, 2]
    assert dataset.classes is None
    build(tmp_path / "one", test__a=2, test__b=2)
    dataset = load_folder(tmp_path / "one")
    assert dataset.classes is dataset.test.labels is None  # classes are never taken from test
    assert len(dataset.test) == 6
    build(tmp_path / "two", bus=10, car=10, train=10)
    assert load_folder(tmp_path / "two").classes == ("bus", "car", "train")
    build(tmp_path / "three", train__a=5, train__b=5, archive=3)
    assert load_folder(tmp_path / "three").classes == ("a", "b")


def test_ten_of_a_hundred_are_corrupt(tmp_path):
    for i in range(90):
        save(tmp_path / f"{i:03}.png", i)
    for name, content in broken().items():
        (tmp_path / name).write_bytes(content)
    seen = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        dataset = load_folder(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert not warned
    assert seen == [(i, 100) for i in range(1, 101)]
    assert {Path(path).name for path in dataset.skipped} == set(broken())
    assert sorted(grey(dataset.train) + grey(dataset.validation)) == list(range(90))
    assert len(dataset.validation) == 9
    with pytest.raises(ValueError, match=r"^10 of 100 .* \(10%\), more than data.max_corrupt=0.09 allows") as caught:
        load_folder(tmp_path, max_corrupt=0.09)
    message = str(caught.value)
    assert [message.count(str(tmp_path / name)) for name in sorted(broken())[:4]] == [1, 1, 1, 0]
    assert "\n" not in message


def test_an_unreadable_file_moves_no_other_between_splits(tmp_path):
    build(tmp_path, a=50)
    whole = load_folder(tmp_path)
    lost = whole.train.path(3)
    lost.write_bytes(b"")
    rest = load_folder(tmp_path)
    assert names(rest.validation) == names(whole.validation)
    assert set(names(rest.train)) == set(names(whole.train)) - {"a/" + lost.name}


def test_of_many_files_some_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "CHECK_ALL", 20)
    monkeypatch.setattr(streamed, "CHECK_SOME", 10)
    build(tmp_path, a=21)
    seen = []
    assert len(load_folder(tmp_path, progress=lambda *done: seen.append(done)).train) == 19
    assert seen[-1] == (10, 10)
    for path in sorted((tmp_path / "a").iterdir())[12:]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 10 images are unreadable"):  # at once, not an epoch later
        load_folder(tmp_path)
    assert CHECK_SOME == 500


def test_wrong_roots_end_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for i in range(12):
        path = tmp_path / "papers" / f"{i % 2}" / f"{i}{'.txt' if i < 10 else '.CSV'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    save(tmp_path / "dead" / "x.png").write_bytes(b"")
    for root, message in (
        (None, "needs data.root"), ("", "needs data.root"), (tmp_path / "gone", "gone does not exist"),
        (tmp_path / "papers" / "0" / "0.txt", "is a file"), (tmp_path / "empty", "empty is empty"),
        (tmp_path / "papers", r"has 12 files, none an image \(10 .txt, 2 .csv\).*\.jpg"),
        (tmp_path / "dead", "1 of 1 images are unreadable.*empty file"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_folder(root)
        assert "\n" not in str(caught.value)
        assert "data.root" in str(caught.value) or "data.max_corrupt" in str(caught.value)
    with pytest.raises(ValueError, match="no readable image"):
        load_folder(tmp_path / "dead", max_corrupt=1)
    save(tmp_path / "pile" / "x.png", 9)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert grey(load_folder("~/pile").train) == [9]


# ---------------------------------------------------------------------------------------------- what is ignored, and says so


def test_litter_makes_no_images_and_no_class(tmp_path):
    build(tmp_path, cat=10, dog=10)
    for name in ("@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/0.png",
                 "#recycle/9.png", "$RECYCLE.BIN/9.png", "lost+found/9.png", "dog/.ipynb_checkpoints/0-checkpoint.png",
                 ".AppleDouble/0.png", "cat/._0.png"):
        save(tmp_path / name)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "cat" / name).write_text("x")
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert sorted(grey(dataset.train) + grey(dataset.validation) + grey(dataset.test)) == list(range(20))
    assert dataset.ignored == {"@eaDir/": 2, "__MACOSX/": 1, "#recycle/": 1, "$RECYCLE.BIN/": 1, "lost+found/": 1,
                               ".ipynb_checkpoints/": 1, ".AppleDouble/": 1, "._*": 1, ".db": 1, ".ini": 1}
    assert dataset.skipped == {}


def test_litter_beside_train_does_not_make_it_a_class(tmp_path):
    build(tmp_path, train=10)
    save(tmp_path / "@eaDir" / "thumbnail.jpg")
    dataset = load_folder(tmp_path)
    assert sorted(grey(dataset.train) + grey(dataset.validation)) == list(range(10))
    assert dataset.ignored == {"@eaDir/": 1}


def test_other_files_are_counted_by_suffix(tmp_path):
    build(tmp_path, train__a=5, train__b=5, test__a=2, archive=3)
    save(tmp_path / "beside.png")
    for name in ("train/a/1.HEIC", "train/b/2.heic", "test/a/x.mov", "train/a/README", "train/IM.0001", "train/IM.0002",
                 "old.tar.gz", "train/Mr. Smith at home"):
        (tmp_path / name).write_text("x")
    dataset = load_folder(tmp_path)
    heic = {} if b".heic" in folder.SUFFIXES else {".heic": 2}
    assert dataset.ignored == heic | {".mov": 1, "without suffix": 2, ".<number>": 2, ".tar.gz": 1, "archive/": 1,
                                      ".png beside train/": 1}


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_class_folders_are_compared_in_nfc(tmp_path, splits):
    """In two splits, or twice in one: macOS writes names decomposed."""
    for i, (split, form) in enumerate(zip(splits, ("NFC", "NFD"), strict=True)):
        for name in ("café", "thé"):
            for k in range(5):
                save(tmp_path / split / unicodedata.normalize(form, name) / f"{i}{k}.png", 5 * i + k)
    dataset = load_folder(tmp_path)
    assert dataset.classes == ("café", "thé")
    assert all(unicodedata.is_normalized("NFC", name) for name in dataset.classes)
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 20
    for split in (dataset.train, dataset.validation, dataset.test):
        folders = [unicodedata.normalize("NFC", Path(name).parts[1]) for name in names(split)]
        assert folders == [dataset.classes[k] for k in split.labels]
    if splits[1] == "test":
        assert len(dataset.test) == 20 / 2


def test_a_stray_image_that_costs_the_labels_is_told(tmp_path):
    build(tmp_path, cat=10, dog=10)
    save(tmp_path / "stray.png")
    dataset = load_folder(tmp_path)
    assert dataset.classes is None
    (where, why), = dataset.skipped.items()
    assert where == f"{tmp_path}, labels"
    assert "1 image lies beside 2 folders" in why
    assert load_folder(tmp_path, labels="none").skipped == {}
    for i in range(30):
        save(tmp_path / f"{i}.png")
    assert load_folder(tmp_path).skipped == {}  # a pile of pictures with some sub-folders: never labelled


def test_unreadable_names_are_told_apart_on_one_line(tmp_path):
    odd = [b"line\nbreak.png", b"tab\tname.png", b"latin-\xe9.png", b"back\\nslash.png", "caf\u00e9 \u2028 x.png".encode()]
    for name in odd:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"")
    save(tmp_path / "good.png")
    dataset = load_folder(tmp_path, max_corrupt=1)
    paths = sorted(path.removeprefix(f"{tmp_path}/") for path in dataset.skipped)
    assert paths == sorted(["line\\nbreak.png", "tab\\tname.png", "latin-\\xe9.png", "back\\\\nslash.png",
                           "café \\u2028 x.png"])
