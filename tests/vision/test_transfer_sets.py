"""data=torchvision: small copies of each layout, against what torchvision itself reads; subsets of a thousand images."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as published

from linear_eval.suites import FOLDER, METRICS, named_suites, read_suite
from vision import datasets, transfer_sets
from vision.reading import Reading
from vision.subset import listing, ordered, subset

VOC = """<annotation>{}</annotation>"""
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"


def draw(path: Path) -> None:
    """An image of its own: its pixels are those of its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(f"{path.parent.name}/{path.name}".encode()))
    pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def lines(path: Path, *text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in text))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    for split, count in (("train", 6), ("val", 4), ("test", 4)):
        names = [f"{'ab'[i % 2]}/{split}{i}.jpg" for i in range(count)]
        lines(root / f"dtd/dtd/labels/{split}1.txt", *names)
        for name in names:
            draw(root / "dtd/dtd/images" / name)
    air = root / "fgvc-aircraft-2013b/data"
    lines(air / "variants.txt", "707-320", "A320 neo")
    for split, count in (("trainval", 8), ("test", 4)):
        lines(air / f"images_variant_{split}.txt", *(f"{split}{i} {('707-320', 'A320 neo')[i % 2]}" for i in range(count)))
        for i in range(count):
            draw(air / "images" / f"{split}{i}.jpg")
    for split, count in (("trainval", 8), ("test", 4)):
        names = [f"{('great_dane', 'Sphynx')[i % 2]}_{split}{i}" for i in range(count)]
        lines(root / f"oxford-iiit-pet/annotations/{split}.txt", *(f"{name} {i % 2 + 1} 1 1" for i, name in enumerate(names)))
        for name in names:
            draw(root / "oxford-iiit-pet/images" / f"{name}.jpg")
    for split, count in (("train", 6), ("test", 3)):
        content = {kind: [f"{kind}/{split}{i}" for i in range(count)] for kind in ("pizza", "apple_pie")}
        lines(root / f"food-101/meta/{split}.json", json.dumps(content))
        for name in (name for names in content.values() for name in names):
            draw(root / "food-101/images" / f"{name}.jpg")
    lines(root / "SUN397/ClassName.txt", "/a/abbey", "/b/bus/inside")
    for name, count in (("Training_01", 8), ("Testing_01", 4)):
        paths = [f"{('/a/abbey', '/b/bus/inside')[i % 2]}/sun_{name}{i}.jpg" for i in range(count)]
        lines(root / f"SUN397/{name}.txt", *paths)
        for path in paths:
            draw(root / f"SUN397{path}")
    for kind, count in (("ant", 33), ("BACKGROUND_Google", 3), ("wrench", 35)):
        for i in range(count):
            draw(root / f"caltech101/101_ObjectCategories/{kind}/image_{i + 1:04d}.jpg")
    for kind in ("Forest", "River"):
        for i in range(10):
            draw(root / f"eurosat/2750/{kind}/{kind}_{i}.jpg")
    clevr = root / "clevr/CLEVR_v1.0"
    for split, count in (("train", 8), ("val", 4), ("test", 1)):
        scenes = [{"image_filename": f"{split}{i}.png", "objects": [{}] * (3 + i % 2)} for i in range(count)]
        lines(clevr / f"scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))
        for scene in scenes:
            draw(clevr / "images" / split / scene["image_filename"])
    flowers = root / "flowers-102"
    for i in range(1, 13):
        draw(flowers / f"jpg/image_{i:05d}.jpg")
    savemat(flowers / "setid.mat", {"trnid": [1, 2, 3, 4], "valid": [5, 6, 7, 8], "tstid": [9, 10, 11, 12]})
    savemat(flowers / "imagelabels.mat", {"labels": [1, 2] * 6})
    cars, kinds = root / "stanford_cars", np.array(["Audi TT", "BMW M3"], dtype=object)
    for split, place in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        (cars / place).parent.mkdir(parents=True, exist_ok=True)
        rows = np.array([(f"{i}.jpg", i % 2 + 1) for i in range(8)], dtype=[("fname", object), ("class", object)])
        savemat(cars / place, {"annotations": rows})
        for i in range(8):
            draw(cars / f"cars_{split}/{i}.jpg")
    savemat(cars / "devkit/cars_meta.mat", {"class_names": kinds})
    voc = root / "VOCdevkit/VOC2007"
    several = [[("dog", 0), ("cat", 0)], [("cat", 0), ("cat", 1)], [("dog", 1)], [("dog", 0)]] * 3
    for split, count in (("trainval", 12), ("test", 4)):
        lines(voc / f"ImageSets/Main/{split}.txt", *(f"{split}{i}" for i in range(count)))
        for i in range(count):
            draw(voc / f"JPEGImages/{split}{i}.jpg")
            lines(voc / f"Annotations/{split}{i}.xml", VOC.format("".join(OBJECT.format(*one) for one in several[i])))
    return root


@pytest.fixture(autouse=True)
def small_copies(monkeypatch):
    """torchvision compares the digests of the published flower files."""
    monkeypatch.setattr(published.Flowers102, "_check_integrity", lambda self: True)


ORACLES = {  # which parts of torchvision's classes make train and validation together, and which is test
    "aircraft": ([("FGVCAircraft", {"split": "trainval"})], ("FGVCAircraft", {"split": "test"})),
    "cars": ([("StanfordCars", {"split": "train"})], ("StanfordCars", {"split": "test"})),
    "clevr_count": ([("CLEVRClassification", {"split": "train"})], ("CLEVRClassification", {"split": "val"})),
    "dtd": ([("DTD", {"split": "train"}), ("DTD", {"split": "val"})], ("DTD", {"split": "test"})),
    "flowers102": ([("Flowers102", {"split": "train"}), ("Flowers102", {"split": "val"})], ("Flowers102", {"split": "test"})),
    "food101": ([("Food101", {"split": "train"})], ("Food101", {"split": "test"})),
    "pets": ([("OxfordIIITPet", {"split": "trainval"})], ("OxfordIIITPet", {"split": "test"})),
}  # fmt: skip


def pairs(split) -> set[tuple[bytes, int]]:
    images = split.resized(torch.arange(len(split)), 12)
    return {(image.numpy().tobytes(), int(label)) for image, label in zip(images, split.labels, strict=True)}


@pytest.mark.parametrize("name", ORACLES)
def test_images_and_labels_are_torchvisions(name, root):
    dataset = datasets.load("torchvision", str(root), reading=Reading(set=name), validation=0.25)
    parts, test = ORACLES[name]
    read = {role: [getattr(published, kind)(root, **arguments) for kind, arguments in those]
            for role, those in (("train", parts), ("test", [test]))}  # fmt: skip

    def theirs(role: str) -> set[tuple[bytes, int]]:
        items = [one[i] for one in read[role] for i in range(len(one))]
        return {(np.asarray(image.convert("RGB")).transpose(2, 0, 1).tobytes(), int(label)) for image, label in items}

    train, validation = pairs(dataset.train), pairs(dataset.validation)
    assert train | validation == theirs("train")
    assert not train & validation
    assert validation
    assert pairs(dataset.test) == theirs("test")
    assert len(dataset.classes) > max(label for _, label in train | validation)
    assert dataset.name == name


def test_sets_without_a_split_of_their_own(root):
    caltech = datasets.load("torchvision", str(root), reading=Reading(set="caltech101"), validation=0)
    assert caltech.classes == ("ant", "wrench")  # the background is no class
    assert caltech.train.labels.bincount().tolist() == [30, 30]
    assert caltech.test.labels.bincount().tolist() == [3, 5]
    sun = datasets.load("torchvision", str(root), reading=Reading(set="sun397"), validation=0)
    assert sun.classes == ("abbey", "bus/inside")
    assert (len(sun.train), len(sun.test)) == (8, 4)
    assert [Path(sun.train.name(i)).parent.name == "inside" for i in range(8)] == [bool(k) for k in sun.train.labels]
    eurosat = datasets.load("torchvision", str(root), reading=Reading(set="eurosat"), seed=3)
    again = datasets.load("torchvision", str(root), reading=Reading(set="eurosat"), seed=4)
    assert len(eurosat.test) == 4
    assert torch.equal(eurosat.test.rows, again.test.rows)


def test_voc2007_has_several_labels_and_leaves_difficult_objects_out(root):
    voc = datasets.load("torchvision", str(root), reading=Reading(set="voc2007"), validation=0)
    assert voc.multilabel
    assert voc.classes == ("cat", "dog")
    assert voc.train.labels[:4].tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]
    assert len(voc.test) == 4


def test_what_is_not_there_is_one_line(root, tmp_path):
    with pytest.raises(ValueError, match=r"data.set=dogs: there are aircraft, caltech101, "):
        datasets.load("torchvision", str(root), reading=Reading(set="dogs"))
    with pytest.raises(ValueError, match=r"data.set=dtd: .*/dtd is not there; put torchvision's copy of it there \(dtd/\)"):
        datasets.load("torchvision", str(tmp_path), reading=Reading(set="dtd"))
    (tmp_path / "SUN397").mkdir()
    lines(tmp_path / "SUN397/ClassName.txt", "/a/abbey")
    with pytest.raises(ValueError, match=r"data.set=sun397: .*Training_01.txt, of the official partitions, is not there"):
        datasets.load("torchvision", str(tmp_path), reading=Reading(set="sun397"))


# ------------------------------------------------------------------------------------------------------------------- subsets


def test_a_subset_is_the_published_positions(root):
    whole = datasets.load("torchvision", str(root), reading=Reading(set="dtd"), validation=0)
    part = subset(whole, "4+3")
    first, second = ([int(n) for n in line.split()] for line in listing(10, "4+3").splitlines())
    assert part.train.rows.tolist() == first
    assert part.validation.rows.tolist() == second
    assert len({*first, *second}) == 7
    assert torch.equal(part.test.rows, whole.test.rows)
    without = whole.train.select(torch.tensor([i for i in range(10) if i != first[0]]))  # one file cannot be read
    rows = without.rows[ordered(without.rows)[:4]].tolist()
    assert {*rows} >= {*first} - {first[0]}
    digits = datasets.load("digits", validation=0)
    few = subset(digits, "20+5")
    assert (len(few.train), len(few.validation), len(few.test)) == (20, 5, len(digits.test))
    for text, message in (("800", "must be training images"), ("0+5", "must be training"), ("9000+1", "give fewer")):
        with pytest.raises(ValueError, match=message):
            subset(digits, text)
    with pytest.raises(ValueError, match="so that none is held out"):
        subset(datasets.load("digits"), "20+5")


@pytest.mark.parametrize("path", sorted((FOLDER / "vtab1k").glob("*.txt")), ids=lambda path: path.stem)
def test_the_lists_are_what_the_rule_gives(path):
    official = {"caltech101": 3_030, "cifar100": 50_000, "dtd": 3_760, "flowers102": 2_040, "pets": 3_680, "sun397": 19_850,
                "clevr_count": 70_000}  # fmt: skip
    assert path.read_text() == listing(official[path.stem], "800+200")


# -------------------------------------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("name", named_suites())
def test_a_suite_names_what_there_is_and_what_is_not(name):
    suite = read_suite(name)
    assert {one.metric for one in suite.sets} <= set(METRICS)
    for one in suite.sets:
        if one.changes["data"] == "torchvision":
            assert transfer_sets.SETS[one.changes["data.set"]].folder == one.needs
    assert not {one.name for one in suite.sets} & suite.missing.keys()
    assert len(suite.sets) + len(suite.missing) == {"linear12": 12, "vtab1k": 19}[name]


def test_metrics_of_the_linear_suite_are_the_papers():
    metrics = {one.name: one.metric for one in read_suite("linear12").sets}
    per_class = {"aircraft", "pets", "caltech101", "flowers102"}
    assert {name for name, metric in metrics.items() if metric == "mean per class"} == per_class
    assert metrics["voc2007"] == "11-point mAP"
    assert {metrics[name] for name in set(metrics) - per_class - {"voc2007"}} == {"top-1"}
