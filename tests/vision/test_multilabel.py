"""Several labels an image: what a table, VOC and COCO files are taken for, and splits that keep each class's share."""
import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import MultiLabelBinarizer

from core import cli
from core.identity import settings_as_written
from linear_eval.evaluate import TOOL
from vision import datasets
from vision.folder import load_folder
from vision.groups import hold_out
from vision.reading import Reading
from vision.splits import Images, split_holdout
from vision.stratify import iterative_holdout

KINDS = ("bus", "cat", "dog")
SOME = [("cat", "dog"), ("dog",), ("bus", "cat"), ("cat",)]  # of image i: SOME[i % 4]
FEW = Reading(multilabel="true")


def pile(root: Path, count: int = 40, form: str = "{}.png") -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    names = [form.format(f"{i:03d}") for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(root / name)
    return names


def write(path: Path, rows, header=None, delimiter=",") -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header] * bool(header) + list(rows))
    return path


def labels_of(dataset) -> dict[str, tuple[str, ...]]:
    """Name of an image → its classes, over all labelled splits."""
    found = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.labels.dtype == torch.int8
        for i in range(len(split)):
            found[split.name(i)] = tuple(dataset.classes[k] for k in split.labels[i].nonzero().flatten().tolist())
    return found


def expected(names: list[str]) -> dict[str, tuple[str, ...]]:
    return {name: SOME[i % 4] for i, name in enumerate(names)}


@pytest.mark.parametrize("multilabel", ["auto", "true"])
@pytest.mark.parametrize(("form", "told"), [
    (";", "of column label separated by ;"), ("|", "of column label separated by |"),
    ("rows", "of column label in several lines"),
    ("columns", "3 columns of 0 and 1: bus, cat, dog"), ("floats", "3 columns of 0 and 1"), ("named", "3 columns of 0 and 1"),
])
def test_a_table_gives_an_image_several_labels(tmp_path, multilabel, form, told):
    names = pile(tmp_path)
    truth, labels = expected(names), "labels.csv"
    if form in (";", "|"):
        write(tmp_path / labels, [(name, form.join(some)) for name, some in truth.items()], ("path", "label"))
    elif form == "rows":
        write(tmp_path / labels, [(name, one) for name, some in truth.items() for one in some], ("path", "label"))
    else:
        matrix = MultiLabelBinarizer(classes=KINDS).fit_transform(truth.values())
        matrix = matrix.astype(float) if form == "floats" else matrix
        rows = [(name, 30 + i, *row, i % 2) for i, (name, row) in enumerate(zip(names, matrix.tolist(), strict=True))]
        header = ("file", "age", *KINDS, "sex")
        if form != "named":
            rows, header = [row[:5] for row in rows], header[:5]
        write(tmp_path / labels, rows, header)
        labels = "labels.csv:bus,cat,dog" if form == "named" else labels
    dataset = load_folder(tmp_path, labels=labels, reading=Reading(multilabel=multilabel))
    assert dataset.multilabel
    assert dataset.classes == KINDS
    assert labels_of(dataset) == truth
    assert f"taken as several labels an image, {told}" in dataset.notes[0]
    assert "20 images have several, at most 2" in dataset.notes[0]
    if form == "|":  # then it is a class of that name
        assert "cat|dog" in load_folder(tmp_path, labels=labels, reading=Reading(multilabel="false")).classes
    else:
        with pytest.raises(ValueError, match=r"data.multilabel=true|none is called label|no column is called"):
            load_folder(tmp_path, labels=labels, reading=Reading(multilabel="false"))


def test_a_few_slips_do_not_make_a_table_one_of_several_labels(tmp_path):
    names = pile(tmp_path)
    rows = [(name, "cat" if i % 2 else "dog") for i, name in enumerate(names)]
    write(tmp_path / "labels.csv", [*rows, ("000.png", "cat")])
    with pytest.raises(ValueError, match=r"000.png two labels: dog in line 1, cat in line 41; .* or set data.multilabel=true"):
        load_folder(tmp_path, labels="labels.csv")
    dataset = load_folder(tmp_path, labels="labels.csv", reading=FEW)
    assert labels_of(dataset)["000.png"] == ("cat", "dog")
    write(tmp_path / "labels.csv", rows)
    assert not load_folder(tmp_path, labels="labels.csv").multilabel
    assert load_folder(tmp_path, labels="labels.csv", reading=FEW).multilabel


def test_unlabelled_images_and_images_without_a_class_differ(tmp_path):
    names = pile(tmp_path)
    matrix = MultiLabelBinarizer(classes=KINDS).fit_transform(expected(names).values())
    matrix[4] = 0
    rows = [(name, *row) for name, row in zip(names, matrix.tolist(), strict=True)]
    rows[5] = (names[5], "", "", "")
    write(tmp_path / "labels.csv", rows[:30], ("path", *KINDS))
    dataset = load_folder(tmp_path, labels="labels.csv")
    found = labels_of(dataset)
    assert found[names[4]] == ()
    assert names[5] not in found
    assert len(found) == 29
    assert dataset.pretrain.labels is None
    assert len(dataset.pretrain) == len(dataset.train) + 11
    assert "29 of 40 images labelled" in dataset.notes[0]
    assert "1 have none of the classes" in dataset.notes[0]


@pytest.mark.parametrize(("rows", "header", "labels", "told"), [
    ([("000.png", 1, 0), ("000.png", 0, 1)], ("path", "a", "b"), "labels.csv", "lines 2 and 3 name one image and differ"),
    ([("000.png", 1, 2), ("001.png", 0, 1)], ("path", "a", "b"), "labels.csv:a,b", "column b holds 2, and must hold 0 or 1"),
    ([("000.png", "a"), ("001.png", "a;a")], ("path", "label"), "labels.csv", "has 1 class with an image of train"),
])
def test_mistakes_are_one_line(tmp_path, rows, header, labels, told):
    pile(tmp_path)
    write(tmp_path / "labels.csv", rows, header)
    with pytest.raises(ValueError, match=told) as error:
        load_folder(tmp_path, labels=labels, reading=FEW)
    assert str(error.value).startswith("data.labels=labels.csv")
    assert len(str(error.value).splitlines()) == 1


def test_the_setting_is_checked(tmp_path):
    pile(tmp_path)
    with pytest.raises(ValueError, match=r"data\.multilabel=maybe: must be auto, true or false"):
        datasets.load("folder", tmp_path, reading=Reading(multilabel="maybe"))
    with pytest.raises(ValueError, match=r"data\.multilabel=true: data\.labels=auto gives one label an image"):
        datasets.load("folder", tmp_path, reading=FEW)


def test_a_setting_at_its_default_is_no_part_of_an_identity():
    for words, kept in (([], False), (["data.multilabel=true"], True)):
        settings = cli.compose(TOOL, ["encoder=small", "data=folder", "data.root=x", *words])
        assert ("data.multilabel" in settings_as_written(settings)) == kept


def boxes_of(i: int) -> tuple[str, ...]:
    return (*SOME[i % 4], SOME[i % 4][0]) if i % 5 else ()


def test_voc_gives_the_classes_of_all_boxes(tmp_path):
    names = pile(tmp_path)
    for i, name in enumerate(names):
        root = ElementTree.Element("annotation")
        for kind in boxes_of(i):
            ElementTree.SubElement(ElementTree.SubElement(root, "object"), "name").text = kind
        ElementTree.ElementTree(root).write(tmp_path / f"{Path(name).stem}.xml")
    dataset = load_folder(tmp_path, labels="voc", reading=FEW)
    assert labels_of(dataset) == {name: tuple(sorted(set(boxes_of(i)))) for i, name in enumerate(names)}
    single = load_folder(tmp_path, labels="voc")
    assert not single.multilabel
    assert "all with data.multilabel=true" in single.notes[0]


def test_coco_gives_the_classes_of_all_boxes_in_its_order(tmp_path):
    COCO = pytest.importorskip("pycocotools.coco").COCO
    names, number = pile(tmp_path), {"dog": 1, "cat": 7, "bus": 9, "zebra": 12}
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1 + 9 * i + k, "image_id": i, "category_id": number[kind], "bbox": [0, 0, 2 + k, 2]}
                        for i in range(len(names)) for k, kind in enumerate(boxes_of(i))],
        "categories": [{"id": one, "name": kind} for kind, one in number.items()],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = load_folder(tmp_path, labels="instances.json", reading=FEW)
    assert dataset.classes == ("dog", "cat", "bus")  # by category_id
    assert "1 class without an image, so left out (first: zebra)" in dataset.notes[0]
    reader = COCO(tmp_path / "instances.json")
    for i, name in enumerate(names):
        there = {one["category_id"] for one in reader.loadAnns(reader.getAnnIds(imgIds=i))}
        assert {number[kind] for kind in labels_of(dataset)[name]} == there


# ----------------------------------------------------------------------------------------------------------------- splits


def long_tailed(count: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((count, 8)) < np.geomspace(0.5, 0.002, 8)).astype(np.int8)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_keeps_its_share(share):
    labels = long_tailed()
    held_out = iterative_holdout(labels, np.random.default_rng(1).permutation(len(labels)), share, 10_000)
    assert abs(held_out.sum() - share * len(labels)) <= 8  # a few more of rare classes
    total, held = labels.sum(0), labels[held_out].sum(0)
    assert (np.abs(held - share * total) <= 2 + 0.05 * share * total).all()
    random = np.random.default_rng(2).random(len(labels)) < share
    gap = np.abs(labels[random].sum(0) / total - share).mean()
    assert np.abs(held / total - share).mean() < gap
    assert (held >= 1).all()
    assert (held < total).all()


def test_no_class_is_lost_and_the_cap_is_kept():
    labels = np.eye(12, dtype=np.int8)[[0, 0, 1, 1, 2, *range(3, 12)]]
    held_out = iterative_holdout(labels, np.arange(len(labels)), 0.2, 10_000)
    assert labels[held_out].sum(0).tolist() == [1, 1, *[0] * 10]  # classes with one image keep it
    assert iterative_holdout(long_tailed(), np.arange(2000), 0.2, 50).sum() == 50
    assert not iterative_holdout(long_tailed(), np.arange(2000), 0.0, 50).any()


def test_a_split_depends_on_the_seed_alone():
    labels = torch.from_numpy(long_tailed(300))
    split = Images(torch.arange(300, dtype=torch.uint8)[:, None, None, None].expand(300, 1, 2, 2), labels)
    first, again, other = (split_holdout(split, 0.2, 99, seed, 1)[1].images[:, 0, 0, 0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_groups_stay_together_and_classes_keep_their_share():
    labels = torch.from_numpy(long_tailed(1200))
    groups = torch.arange(1200) // 6
    held_out = hold_out(labels, groups, 0.2, 10_000, 0, 1)
    inside = torch.stack([held_out[groups == group].float().mean() for group in groups.unique()])
    assert set(inside.tolist()) == {0.0, 1.0}
    assert abs(float(held_out.float().mean()) - 0.2) < 0.02
    held, total = labels[held_out].long().sum(0), labels.long().sum(0)
    assert (held >= 1).all()
    assert ((held / total - 0.2).abs()[total > 40] < 0.05).all()
