"""Hugging Face data sets in their formats on disk: pixels, labels and splits; mistakes told in one line."""

import pickle

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


def test_hf_mistakes_end_in_one_line(tmp_path, hub):
    hub.Dataset.from_dict({"text": ["x"], "n": [1]}).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.doc").write_text("x")
    for root, words in ((None, "needs data.root"), (str(tmp_path / "x.parquet"), "no column of images, only text, n"),
                        (str(tmp_path / "empty"), "cannot load it"), (str(tmp_path / "x.doc"), "cannot load it"),
                        ("some/name", "data.download=false")):
        with pytest.raises(ValueError, match=words) as caught:
            load("hf", root, download=False)
        assert "data.root" in str(caught.value)
        assert "\n" not in str(caught.value)
