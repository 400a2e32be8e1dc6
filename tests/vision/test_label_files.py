"""Labels in CSV, Pascal VOC XML and COCO JSON, as people have them."""
import contextlib
import csv
import io
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCDetection

from vision import datasets
from vision.box_labels import Box, image_class
from vision.data import data_notes
from vision.folder import load_folder
from vision.pixel_format import PixelRequest
from vision.reading import Reading


def save(path: Path, value: int = 0) -> Path:
    """An image of one gray value, which says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 0)).save(path)
    return path


def pile(root: Path, count: int = 40, form: str = "{}.png") -> list[str]:
    names = [form.format(f"{i:03d}") for i in range(count)]
    for i, name in enumerate(names):
        save(root / name, i)
    return names


def write(path: Path, rows, header=None, delimiter=",", encoding="utf-8") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header] * bool(header) + list(rows))
    path.write_text(text.getvalue(), encoding=encoding)
    return path


def label_of(dataset) -> dict[str, str]:
    """Name of an image → name of its class, over all labelled splits."""
    return {split.name(i): dataset.classes[int(split.labels[i])]
            for split in (dataset.train, dataset.validation, dataset.test) for i in range(len(split))}


def half(i: int) -> str:
    return "cat" if i % 2 else "dog"


# -------------------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("header", [None, ("path", "label"), ("Image", "Class"), ("whatever", "else")])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_labels_images(tmp_path, header, delimiter, encoding):
    names = pile(tmp_path, 20)
    write(tmp_path / "labels.csv", [(name, half(i)) for i, name in enumerate(names)], header, delimiter, encoding)
    dataset = load_folder(tmp_path, labels="labels.csv")
    assert dataset.classes == ("cat", "dog")
    assert label_of(dataset) == {name: half(i) for i, name in enumerate(names)}
    assert dataset.pretrain is dataset.train
    assert dataset.ignored == {}
    assert dataset.notes == ["data.labels=labels.csv: 20 of 20 images labelled"]


@pytest.mark.parametrize("written", [
    "{}", "./{}", "sub/{}", "{root}/sub/{}", "sub\\{}", "{stem}", "sub/{stem}", " {} ", "/elsewhere/{}",
])
def test_paths_are_found_as_people_write_them(tmp_path, written):
    names = pile(tmp_path / "sub", 20, "é {}.jpg")
    paths = [written.format(name, root=tmp_path, stem=Path(name).stem) for name in names]
    write(tmp_path / "labels.csv", [(path, half(i)) for i, path in enumerate(paths)], ("path", "label"))
    assert label_of(load_folder(tmp_path, labels="labels.csv")) == {f"sub/{name}": half(i) for i, name in enumerate(names)}


def test_a_name_of_several_images_is_none_of_them(tmp_path):
    for folder in "ab":
        pile(tmp_path / folder, 10)
    rows = [(f"a/{i:03d}.png", half(i)) for i in range(10)] + [("003.png", "cat")]
    write(tmp_path / "labels.csv", rows)
    dataset = load_folder(tmp_path, labels="labels.csv")
    assert set(label_of(dataset)) == {f"a/{i:03d}.png" for i in range(10)}
    assert "1 line of it names no image, or several (first: line 11, 003.png)" in dataset.notes[0]


def test_images_without_a_label_are_for_pretraining_alone(tmp_path):
    names = pile(tmp_path, 60)
    rows = [(name, half(i) if i < 30 else "") for i, name in enumerate(names[:40])] + [("gone.png", "cat")]
    write(tmp_path / "labels.csv", rows)
    dataset = load_folder(tmp_path, labels="labels.csv")
    assert set(label_of(dataset)) == set(names[:30])
    held_out = {split.name(i) for split in (dataset.validation, dataset.test) for i in range(len(split))}
    assert len(dataset.test) == 6
    pretrain = [dataset.pretrain.name(i) for i in range(len(dataset.pretrain))]
    assert pretrain == sorted(set(names) - held_out)
    assert dataset.pretrain.labels is None
    assert dataset.pretrain.rows.tolist() == sorted(dataset.pretrain.rows.tolist())
    assert data_notes(dataset) == [
        "data.labels=labels.csv: 30 of 60 images labelled; 30 without a label, for pretraining alone (first: 030.png); "
        "1 line of it names no image, or several (first: line 41, gone.png)"]
    assert "images.pretrain" in dataset.fingerprints


def test_labels_are_the_same_as_those_of_folders(tmp_path):
    """So that moving images out of class folders changes no split."""
    for i in range(50):
        save(tmp_path / half(i) / f"{i}.png", i)
    by_folder = load_folder(tmp_path, seed=3)
    paths = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")]
    write(tmp_path / "labels.csv", [(path, path.split("/")[0]) for path in paths])
    by_file = load_folder(tmp_path, labels="labels.csv", seed=3)
    assert by_file.fingerprints == by_folder.fingerprints


def test_official_splits_are_labelled_by_one_file(tmp_path):
    rows = []
    for split, count in (("train", 20), ("val", 8), ("test", 8)):
        rows += [(f"{split}/{name}", half(i)) for i, name in enumerate(pile(tmp_path / split, count))]
    write(tmp_path / "labels.csv", [row for row in rows if row[0] != "test/000.png"])
    dataset = load_folder(tmp_path, labels="labels.csv")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 8, 7)
    assert label_of(dataset) == dict(rows[:28] + rows[29:])
    assert "1 of test without a label, left out (first: test/000.png)" in dataset.notes[0]
    write(tmp_path / "labels.csv", [row for row in rows if row[0].startswith("train")])
    assert len(load_folder(tmp_path, labels="labels.csv").test) == 4  # none of test is labelled: a fifth of train


def test_numbers_are_ordered_by_value(tmp_path):
    names = pile(tmp_path, 30)
    write(tmp_path / "labels.csv", [(name, f"{(9, 10, 2)[i % 3]}.0") for i, name in enumerate(names)], ("id", "target"))
    dataset = load_folder(tmp_path, labels="labels.csv")
    assert dataset.classes == ("2", "9", "10")
    assert label_of(dataset)["001.png"] == "10"


def test_a_column_is_named_behind_the_file(tmp_path):
    names = pile(tmp_path, 20)
    rows = [(str(i), half(i), name, half(i + 1)) for i, name in enumerate(names)]
    write(tmp_path / "labels.csv", rows, ("row", "species", "file", "label"))
    assert label_of(load_folder(tmp_path, labels="labels.csv"))["001.png"] == "dog"
    assert label_of(load_folder(tmp_path, labels="labels.csv:species"))["001.png"] == "cat"


ROWS = [(f"{i:03d}.png", half(i)) for i in range(20)]


@pytest.mark.parametrize(("rows", "header", "labels", "told"), [
    ([], None, "labels.csv", "is empty"),
    (ROWS, ("path", "label"), "other.csv", "there is no file"),
    ([(f"x{i}.png", "cat") for i in range(9)], None, "labels.csv",
     r"none of its 9 lines names an image below .* \(first: line 1, x0.png; an image there: 000.png\)"),
    ([(*row, "x") for row in ROWS], ("path", "what", "else"), "labels.csv",
     "columns are path, what, else, and none is called label; name the column by data.labels=labels.csv:COLUMN"),
    ([(*row, "x") for row in ROWS], ("what", "label", "else"), "labels.csv", "call the one with the paths path"),
    (ROWS, ("path", "label"), "labels.csv:color", "no column is called color; there are path, label"),
    (ROWS, None, "labels.csv:color", "without a header"),
    ([*ROWS, ("000.png", "cat")], None, "labels.csv", "gives 000.png two labels: dog in line 1, cat in line 21"),
    ([("000.png", "cat;dog"), *ROWS[1:]], None, "labels.csv", r"1 image several labels \(first: line 1, cat;dog\)"),
    ([(path, "cat") for path, _ in ROWS], None, "labels.csv", "a single class, cat"),
    ([(path, path) for path, _ in ROWS], ("path", "label"), "labels.csv", "a label of its own"),
    ([(path, i / 2) for i, (path, _) in enumerate(ROWS)], None, "labels.csv", "fractions such as 0.5"),
    ([(path,) for path, _ in ROWS], None, "labels.csv", "line 1 has one column"),
    ([(path, "") for path, _ in ROWS], None, "labels.csv", "labels no image of train"),
    (ROWS, None, "labels.txt", r"is not one of auto, folders, none, voc \(an XML file an image\), or a file that ends in .csv"),
])
def test_mistakes_are_one_line_with_the_setting(tmp_path, rows, header, labels, told):
    pile(tmp_path, 20)
    write(tmp_path / "labels.csv", rows, header)
    with pytest.raises(ValueError, match=told) as error:
        datasets.load("folder", tmp_path, labels=labels)
    assert len(str(error.value).splitlines()) == 1
    assert "data.labels=" in str(error.value)


def test_a_file_beside_the_command_is_told(tmp_path, monkeypatch):
    pile(tmp_path / "pictures")
    write(tmp_path / "labels.csv", ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"relative to data.root; there is one at {tmp_path}/labels.csv"):
        load_folder(tmp_path / "pictures", labels="labels.csv")
    assert len(label_of(load_folder(tmp_path / "pictures", labels=f"{tmp_path}/labels.csv"))) == 20


def test_odd_names_do_not_break_a_note(tmp_path):
    names = pile(tmp_path, 20)
    odd = os.fsencode(tmp_path) + b"/line\nbreak \xe9.png"
    Path(os.fsdecode(odd)).write_bytes((tmp_path / names[0]).read_bytes())
    write(tmp_path / "labels.csv", [*ROWS, ("esc\x1b[31m.png", "cat")])
    for note in load_folder(tmp_path, labels="labels.csv").notes:
        assert note.isprintable()


def test_arrays_of_bands_are_labelled_and_the_others_pretrained_on(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):
        np.save(tmp_path / f"{i:03d}.npy", rng.integers(0, 4096, (5, 12, 12), dtype=np.uint16))
    write(tmp_path / "labels.csv", [(f"{i:03d}", half(i)) for i in range(20)], ("id", "label"))
    dataset = load_folder(tmp_path, labels="labels.csv", reading=Reading(pixels=PixelRequest(axes="CYX")))
    assert label_of(dataset) == {f"{i:03d}.npy": half(i) for i in range(20)}
    assert len(dataset.pretrain) == len(dataset.train) + 10
    assert dataset.pretrain.labels is None
    assert dataset.pretrain.resized(torch.tensor([0]), 8).shape == (1, 5, 8, 8)


# -------------------------------------------------------------------------------------------------------------------- VOC


def voc(path: Path, image: str, boxes: list[tuple[str, int, int, int, int]]) -> None:
    """As LabelImg writes it."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image
    for name, *sides in boxes:
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = name
        box = ElementTree.SubElement(thing, "bndbox")
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True):
            ElementTree.SubElement(box, side).text = str(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path)


def random_boxes(rng: np.random.Generator, count: int) -> list[tuple[str, int, int, int, int]]:
    corner, size = rng.integers(1, 50, (count, 2)), rng.integers(1, 99, (count, 2))
    names = rng.choice(["cat", "dog", "bus"], count)
    return [(str(name), *c.tolist(), *(c + s).tolist()) for name, c, s in zip(names, corner, size, strict=True)]


@pytest.mark.parametrize("layout", ["beside", "Annotations", "VOC2007"])
def test_voc_labels_by_the_largest_box_as_torchvision_reads_it(tmp_path, layout):
    rng = np.random.default_rng(0)
    place = {"beside": ("", ""), "Annotations": ("", "Annotations/"), "VOC2007": ("JPEGImages/", "Annotations/")}[layout]
    names = pile(tmp_path / place[0], 40, "{}.jpg")
    for i, name in enumerate(names[:36]):
        voc(tmp_path / place[1] / f"{Path(name).stem}.xml", name, random_boxes(rng, i % 5))
    if layout == "VOC2007":  # a picture's mask has its name too
        pile(tmp_path / "SegmentationClass", 10)
    dataset = load_folder(tmp_path, labels="voc")
    expected = {}
    for name in names[:36]:
        tree = ElementTree.parse(tmp_path / place[1] / f"{Path(name).stem}.xml").getroot()
        things = VOCDetection.parse_voc_xml(tree)["annotation"].get("object", [])
        sides = [{side: int(value) for side, value in one["bndbox"].items()} for one in things]
        area = [(box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) for box in sides]
        if things:
            expected[place[0] + name] = things[int(np.argmax(area))]["name"]
    assert label_of(dataset) == expected
    assert "8 images without a box (first: " in dataset.notes[0]
    assert "with boxes of several classes: the largest box's is the label" in dataset.notes[0]
    assert not {".xml"} & set(dataset.ignored)


def test_broken_xml_costs_its_image_alone(tmp_path):
    names = pile(tmp_path, 20)
    for i, name in enumerate(names):
        voc(tmp_path / f"{i:03d}.xml", name, [(half(i), 1, 1, 5, 5)])
    (tmp_path / "003.xml").write_text("<annotation><object>")
    (tmp_path / "004.xml").write_text("<svg/>")
    voc(tmp_path / "005.xml", "005.png", [("cat", 9, 9, 1, 20)])
    dataset = load_folder(tmp_path, labels="voc")
    assert set(label_of(dataset)) == {*names} - {"003.png", "004.png", "005.png"}
    assert "3 XML files cannot be used (first: " in dataset.notes[0]
    for path in tmp_path.glob("*.xml"):
        path.unlink()
    with pytest.raises(ValueError, match=r"data.labels=voc: no image below .* has an XML file of its name beside it"):
        load_folder(tmp_path, labels="voc")


def test_the_rule_for_several_boxes():
    assert image_class([Box("a", 4), Box("b", 9), Box("a", 4)]) == "b"
    assert image_class([Box("b", 4), Box("a", 4), Box("b", 4)]) == "b"  # of equal size: the more frequent
    assert image_class([Box("b", 4), Box("a", 4)]) == "a"


# ------------------------------------------------------------------------------------------------------------------- COCO


def coco(names: list[str], boxes: dict[str, list]) -> dict:
    kinds = {"cat": 17, "dog": 18, "bus": 6}
    annotations = [
        {"id": k, "image_id": 100 + names.index(name), "category_id": kinds[kind], "iscrowd": 0,
         "bbox": [x, y, x2 - x, y2 - y], "area": (x2 - x) * (y2 - y)}
        for k, (name, (kind, x, y, x2, y2)) in enumerate(
            ((name, box) for name, some in boxes.items() for box in some), 1)]
    return {"images": [{"id": 100 + i, "file_name": name} for i, name in enumerate(names)], "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in kinds.items()]}


def test_coco_labels_by_the_largest_box_as_pycocotools_reads_it(tmp_path):
    COCO = pytest.importorskip("pycocotools.coco").COCO
    rng = np.random.default_rng(1)
    names = pile(tmp_path / "val2017", 40, "{}.jpg")
    boxes = {name: random_boxes(rng, i % 5) for i, name in enumerate(names)}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco([*names, "gone.jpg"], boxes)))
    dataset = load_folder(tmp_path, labels="instances.json")
    with contextlib.redirect_stdout(io.StringIO()):
        reader = COCO(path)
    expected = {}
    for image in reader.loadImgs(reader.getImgIds()):
        if found := reader.loadAnns(reader.getAnnIds(imgIds=image["id"])):
            largest = max(found, key=lambda one: one["area"])
            expected[f"val2017/{image['file_name']}"] = reader.loadCats(largest["category_id"])[0]["name"]
    assert label_of(dataset) == expected
    assert "1 image of it not found, or several (first: gone.jpg)" in dataset.notes[0]
    assert "8 images without a box" in dataset.notes[0]
    assert dataset.ignored == {}


@pytest.mark.parametrize(("text", "told"), [
    ("{", "is no COCO file of images, annotations and categories"),
    ("[]", "is no COCO file"),
    ('{"images": []}', "'categories' is missing"),
    (json.dumps(coco(["x.jpg"], {})), r"none of its 1 image lies below .*first: x.jpg; an image there: 000.png"),
    (json.dumps(coco(["000.png"], {}) | {"annotations": [{"image_id": 100, "category_id": 3}]}), "no COCO file.*3 is missing"),
])
def test_what_is_no_coco_is_one_line(tmp_path, text, told):
    pile(tmp_path, 20)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        load_folder(tmp_path, labels="x.json")
    assert str(error.value).startswith("data.labels=x.json")


def test_annotations_without_boxes_are_labels_of_images(tmp_path):
    names = pile(tmp_path, 20)
    content = coco(names, {})
    content["annotations"] = [{"image_id": 100 + i, "category_id": 17 + i % 2} for i in range(20)]
    (tmp_path / "x.json").write_text(json.dumps(content))
    dataset = load_folder(tmp_path, labels="x.json")
    assert label_of(dataset) == {name: ("cat", "dog")[i % 2] for i, name in enumerate(names)}
    assert torch.equal(dataset.train.labels, torch.tensor([i % 2 for i in range(20) if names[i] in {
        dataset.train.name(k) for k in range(len(dataset.train))}]))
