"""Hugging Face data sets in their formats on disk: pixels, labels and splits; mistakes told in one line."""

import pickle
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from vision.datasets import load


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import datasets as hub

    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub.disable_progress_bars()
    return hub


def pictures(count: int) -> list[Image.Image]:
    """Images of one grey value each, in several modes and sizes."""
    modes = ("RGB", "L", "RGBA")
    return [Image.new("RGB", (5 + i % 3, 4 + i % 5), (i, i, i)).convert(modes[i % 3]) for i in range(count)]


def test_hf_image_folder(tmp_path, hub):
    for split, classes in (("train", "abc"), ("test", "ab")):
        for k, name in enumerate(classes):
            (tmp_path / "root" / split / name).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (6, 5 + k), (i + 20 * k,) * 3).save(tmp_path / "root" / split / name / f"{i}.png")
    dataset = load("hf", str(tmp_path / "root"))
    assert dataset.classes == ("a", "b", "c")  # of train; test has two
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 20]
    assert [dataset.test.read(i).getpixel((0, 0))[0] for i in (0, 9, 10, 19)] == [0, 9, 20, 29]
    assert dataset.test.labels.tolist() == [0] * 10 + [1] * 10
    assert dataset.test.resized(torch.tensor([3, 13]), 6)[:, 1, 2, 2].tolist() == [3, 23]
    assert (dataset.channels, dataset.image_size, dataset.name) == (3, 224, "hf")
    again = pickle.loads(pickle.dumps(dataset.validation))
    assert again.read(1).tobytes() == dataset.validation.read(1).tobytes()


def test_hf_parquet_with_odd_columns_and_a_broken_row(tmp_path, hub):
    rows = {"id": list(range(30)), "picture": pictures(30), "label": [("cat", "ant")[i % 2] for i in range(30)]}
    features = hub.Features(id=hub.Value("int64"), picture=hub.Image(), label=hub.Value("string"))
    table = hub.Dataset.from_dict(rows, features=features)
    raw = table.cast_column("picture", hub.Image(decode=False))[:]
    raw["picture"][7] = {"bytes": b"broken", "path": None}
    raw["picture"][8] = None
    hub.Dataset.from_dict(raw, features=features).to_parquet(tmp_path / "x.parquet")
    seen = []
    dataset = load(f"hf:{tmp_path / 'x.parquet'}", progress=lambda *done: seen.append(done))
    assert seen[-1] == (30, 30)
    assert dataset.classes == ("ant", "cat")
    assert set(dataset.skipped.values()) == {"not an image, or of an unknown format", "no image in this row"}
    found = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        for i in range(len(split)):
            value = split.read(i).getpixel((0, 0))[0]
            assert split.labels[i] == (value + 1) % 2
            assert split.name(i) == f"{tmp_path / 'x.parquet'}/train/{value}"
            found[value] = split
    assert sorted(found) == [i for i in range(30) if i not in (7, 8)]
    assert len(dataset.test) == 6  # 20 % of 28
    with pytest.raises(ValueError, match=r"2 of 30 .*data.max_corrupt=0.01.*/train/7 \(not an image"):
        load("hf", str(tmp_path / "x.parquet"), max_corrupt=0.01)
    assert load("hf", str(tmp_path / "x.parquet"), labels="none").train.labels is None


def test_hf_saved_to_disk_whose_test_labels_are_withheld(tmp_path, hub):
    def table(labels):
        features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["a", "b", "never seen"]))
        return hub.Dataset.from_dict({"image": pictures(len(labels)), "label": labels}, features=features)

    saved = hub.DatasetDict(train=table([0, 1] * 10), validation=table([1, 0]), test=table([-1] * 4))
    saved.save_to_disk(tmp_path / "saved")
    dataset = load("hf", str(tmp_path / "saved"))
    assert dataset.classes == ("a", "b", "never seen")
    assert dataset.test.labels.tolist() == [1, 0]  # the official validation: all that can be scored
    assert (len(dataset.train), len(dataset.validation)) == (18, 2)
    assert dataset.validation.labels.sort().values.tolist() == [0, 1]  # carved out of train
    assert list(dataset.skipped.values()) == ["has labels that train lacks, so not used for test"]


def labelled(hub, path: Path, values: list, kind, split: str = "train") -> str:
    """A .parquet of pictures with these labels; image i is i grey in its first channel."""
    features = hub.Features(image=hub.Image(), label=kind)
    hub.Dataset.from_dict({"image": pictures(len(values)), "label": values}, features=features).to_parquet(path)
    return str(path)


def classes_of(dataset) -> dict[int, str]:
    """Grey value → class."""
    return {split.read(i).getpixel((0, 0))[0]: dataset.classes[split.labels[i]]
            for split in (dataset.train, dataset.validation, dataset.test) for i in range(len(split))}


@pytest.mark.parametrize("empty", [None, "other"])
@pytest.mark.parametrize(("kind", "two", "names"), [
    ("string", ["cat", "dog"], ("cat", "dog")), ("large_string", ["cat", "dog"], ("cat", "dog")),
    ("int64", [0, 7], ("0", "7")), ("int8", [-1, 1], ("-1", "1")), ("bool", [False, True], ("False", "True")),
    ("float64", [0.0, 1.0], ("0", "1")), ("named", [0, 1], ("cat", "dog")),
])
def test_rows_without_a_label_are_left_out(tmp_path, hub, kind, two, names, empty):
    other = {"string": " ", "large_string": "", "float64": float("nan"), "named": -1}.get(kind)
    value = other if empty else None
    values = [value if i in (3, 9) else two[i % 2] for i in range(40)]
    feature = hub.ClassLabel(names=["cat", "dog"]) if kind == "named" else hub.Value(kind)
    root = labelled(hub, tmp_path / "x.parquet", values, feature)
    dataset = load("hf", root)
    assert dataset.classes == names
    assert classes_of(dataset) == {i: names[i % 2] for i in range(40) if i not in (3, 9)}
    assert dataset.skipped == {f"{root}/train": "of 40 rows 2 have no label: left out"}
    assert len(load("hf", root, labels="none").train) == 36  # and 4 of validation


def test_labels_that_most_rows_lack_are_not_used_which_is_told(tmp_path, hub):
    root = labelled(hub, tmp_path / "x.parquet", ["cat" if i < 19 else None for i in range(40)], hub.Value("string"))
    dataset = load("hf", root)
    assert dataset.classes is None
    assert len(dataset.train) == 36
    assert dataset.skipped == {f"{root}/train, labels": "21 of 40 rows have no label, so none is used"}
    root = labelled(hub, tmp_path / "y.parquet", [None] * 40, hub.Value("string"))
    assert load("hf", root).classes is None


def test_fractions_are_no_classes(tmp_path, hub):
    root = labelled(hub, tmp_path / "x.parquet", [i / 40 for i in range(40)], hub.Value("float32"))
    with pytest.raises(ValueError, match=r"data.root=.*column 'label' holds fractions such as 0.025, .*data.labels=none"):
        load("hf", root)
    assert load("hf", root, labels="none").classes is None
    values = [0.5 if i == 3 else float("inf") if i == 4 else float(i % 2) for i in range(40)]
    root = labelled(hub, tmp_path / "y.parquet", values, hub.Value("float32"))
    dataset = load("hf", root)
    assert classes_of(dataset) == {i: str(i % 2) for i in range(40) if i not in (3, 4)}
    assert dataset.skipped == {f"{root}/train/3": "label 0.5, a fraction", f"{root}/train/4": "label inf, a fraction"}


def test_classes_of_two_splits_are_matched_by_name(tmp_path, hub):
    """NFC and NFD are one; a ClassLabel of another order means its own names; a class of test alone costs its rows."""
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

    def table(values, kind):
        features = hub.Features(image=hub.Image(), label=kind)
        return hub.Dataset.from_dict({"image": pictures(len(values)), "label": values}, features=features)

    words = table([(nfc, nfd, "dog")[i % 3] for i in range(30)], hub.Value("string"))
    hub.DatasetDict(train=words, test=table([nfd, "dog", "zebra"], hub.Value("string"))).save_to_disk(tmp_path / "words")
    dataset = load("hf", str(tmp_path / "words"))
    assert dataset.classes == (nfc, "dog")
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.skipped == {f"{tmp_path / 'words'}/test": "of 3 rows 1 have one that train lacks (zebra): left out"}

    train = table([i % 2 for i in range(30)], hub.ClassLabel(names=["dog", nfd]))
    hub.DatasetDict(train=train, test=table([0, 1], hub.ClassLabel(names=[nfc, "dog"]))).save_to_disk(tmp_path / "numbers")
    dataset = load("hf", str(tmp_path / "numbers"))
    assert dataset.classes == ("dog", nfc)
    assert dataset.test.labels.tolist() == [1, 0]


def test_a_split_that_lacks_a_column_is_told(tmp_path, hub):
    def table(**columns):
        features = hub.Features({name: hub.Image() if name == "image" else hub.Value("int64") for name in columns})
        return hub.Dataset.from_dict(columns, features=features)

    train = table(image=pictures(30), label=[i % 2 for i in range(30)])
    saved = hub.DatasetDict(train=train, validation=table(label=[0, 1]), test=table(image=pictures(4)))
    saved.save_to_disk(tmp_path / "saved")
    dataset = load("hf", str(tmp_path / "saved"))
    assert dataset.skipped == {f"{tmp_path / 'saved'}/validation": "has no column 'image', so not used for validation",
                               f"{tmp_path / 'saved'}/test": "has no labels, so not used for test"}
    assert sorted(classes_of(dataset)) == list(range(30))


def test_hf_mistakes_end_in_one_line(tmp_path, hub):
    hub.Dataset.from_dict({"text": ["x"], "n": [1]}).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.doc").write_text("x")
    for root, message in ((None, "needs data.root"), (str(tmp_path / "x.parquet"), "no column of images, only text, n"),
                        (str(tmp_path / "empty"), "cannot load it"), (str(tmp_path / "x.doc"), "cannot load it"),
                        ("some/name", "data.download=false")):
        with pytest.raises(ValueError, match=message) as caught:
            load("hf", root, download=False)
        assert "data.root" in str(caught.value)
        assert "\n" not in str(caught.value)
