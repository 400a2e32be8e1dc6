"""Splits by group, and files that are in two splits."""
import csv
import hashlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision import datasets, duplicates
from vision.data import data_notes
from vision.duplicates import copies_across
from vision.folder import load_folder
from vision.groups import hold_out, numbers
from vision.reading import Reading

NUMBER = 0


def save(path: Path) -> Path:
    """An image that no other is equal to."""
    global NUMBER
    NUMBER += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (NUMBER % 256, NUMBER // 256 % 256, NUMBER // 65536)).save(path)
    return path


def splits_of(dataset) -> dict[str, list[str]]:
    splits = {"train": dataset.pretrain, "validation": dataset.validation, "test": dataset.test}
    return {role: [split.name(i) for i in range(len(split))] for role, split in splits.items()}


def assert_apart(dataset, group_of) -> None:
    groups = {role: set(map(group_of, names)) for role, names in splits_of(dataset).items()}
    for one, other in combinations(groups.values(), 2):
        assert not one & other


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """200 images of two classes and 40 patients of 1 … 9 images, each with both classes; patient.csv says whose is which."""
    root, rng, rows = tmp_path_factory.mktemp("patients"), np.random.default_rng(0), []
    for k in range(40):
        for i in range(1 + k % 9):
            name = f"{'ab'[rng.integers(2)]}/p{k:02d}_{i}.png"
            save(root / name)
            rows.append((name, name[0], f"p{k:02d}"))
    with open(root / "patient.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient"), *rows])
    return root


def patient(name: str) -> str:
    return Path(name).name.split("_")[0]


@pytest.mark.parametrize(("labels", "group"), [
    ("patient.csv", "patient"), ("patient.csv", r"p\d+"), ("auto", r"(p\d+)_\d"), ("auto", r"/(p)(\d+)_"), ("none", r"p\d+"),
])
def test_no_group_is_in_two_splits(patients, labels, group):
    dataset = load_folder(patients, labels=labels, reading=Reading(group=group))
    assert_apart(dataset, patient)
    sizes = {role: len(names) for role, names in splits_of(dataset).items()}
    total = sum(sizes.values())
    assert total == 190
    assert 0.05 * total < sizes["validation"] < 0.15 * total
    assert abs(sizes["test"] - (0 if labels == "none" else 0.2 * total)) < 0.05 * total
    counts = {role: len({*map(patient, names)}) for role, names in splits_of(dataset).items()}
    assert f"data.group={group}: train {sizes['train']} images of {counts['train']} groups" in dataset.notes[-1]
    assert f"test {sizes['test']} images of {counts['test']} groups; no group is in two of them" in dataset.notes[-1]
    assert sum(counts.values()) == 40


def test_test_is_the_same_for_every_seed_and_keeps_its_groups(patients, tmp_path):
    a, b = (splits_of(load_folder(patients, reading=Reading(group=r"p\d+"), seed=seed)) for seed in (0, 1))
    assert a["test"] == b["test"]
    assert a["validation"] != b["validation"]
    assert splits_of(datasets.load("folder", patients, reading=Reading(group=r"p\d+"))) == a
    assert splits_of(load_folder(patients)) != a
    assert load_folder(patients, reading=Reading(group=None)).fingerprints == load_folder(patients).fingerprints


def test_parent_is_the_folders_name_whatever_the_class(tmp_path):
    for kind in "ab":
        for scene in range(10):
            for i in range(3):
                save(tmp_path / kind / f"s{scene}" / f"{i}.png")
    dataset = load_folder(tmp_path, reading=Reading(group="parent"))
    assert_apart(dataset, lambda name: name.split("/")[1])
    assert len(dataset.test) == 12


def test_unlabelled_images_of_a_held_out_group_are_not_pretrained_on(tmp_path):
    rows = []
    for k in range(30):
        for i in range(6):
            name = save(tmp_path / f"p{k:02d}_{i}.png").name
            rows.append((name, ["", "x", "y"][i % 3], patient(name)))
    rows = rows[:-1]  # an image of which the table has no group
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient"), *rows])
    dataset = load_folder(tmp_path, labels="labels.csv", reading=Reading(group="patient"))
    assert_apart(dataset, patient)
    used = splits_of(dataset)
    assert set(used["train"]) == {name for name, _, p in rows if p in {*map(patient, used["train"])}}
    assert len(dataset.train) < len(dataset.pretrain)
    assert "1 image without label and group left out, from pretraining too (first: p29_5.png)" in "; ".join(dataset.notes)


def test_official_splits_with_a_common_group_are_refused(tmp_path):
    for split, some in (("train", range(12)), ("test", range(10, 15))):
        for k in some:
            for kind in "ab":
                save(tmp_path / split / kind / f"p{k}_.png")
    with pytest.raises(ValueError, match=r"=p\\d\+: 2 groups \(first: p1[01]\) in both the train and the test folder"):
        load_folder(tmp_path, reading=Reading(group=r"p\d+"))
    for k in (10, 11):
        for kind in "ab":
            (tmp_path / "test" / kind / f"p{k}_.png").unlink()
    dataset = load_folder(tmp_path, reading=Reading(group=r"p\d+"))
    assert_apart(dataset, patient)
    assert len(dataset.test) == 6


@pytest.mark.parametrize(("labels", "group", "told"), [
    ("auto", "scene", r"data.group=scene is no column \(data.labels names no table .*matches no path \(first: a/p"),
    ("patient.csv", "scene", r"the columns of data.labels=patient.csv are path, label, patient"),
    ("auto", "(p", "no regular expression"),
    ("auto", "a/p", "does not match .* paths of 190 .first: b/"),
    ("auto", "parent", "data.group leaves no group for test: train needs its 2 groups to keep each class"),
    ("none", "^", "leaves no group for validation: train needs its 1 group"),
])
def test_groups_that_cannot_be_are_one_line(patients, labels, group, told):
    with pytest.raises(ValueError, match=told) as error:
        load_folder(patients, labels=labels, reading=Reading(group=group))
    assert len(str(error.value).splitlines()) == 1


def test_an_image_without_a_group_is_refused(tmp_path):
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        for i in range(20):
            file.write(f"{save(tmp_path / f'{i}.png').name},{'ab'[i % 2]},{i if i != 7 else ''}\n".replace("0.png", "0.png", 1))
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text("path,label,slide\n" + text)
    with pytest.raises(ValueError, match=r"data.group=slide: that column is empty for 1 labelled image \(first: 7.png\)"):
        load_folder(tmp_path, labels="labels.csv", reading=Reading(group="slide"))
    with pytest.raises(ValueError, match="data=digits has no groups"):
        datasets.load("digits", reading=Reading(group="slide"))


# ------------------------------------------------------------------------------------------------------------ the holdout


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("groups", "classes"), [(5, 1), (30, 3), (200, 10)])
def test_a_holdout_is_stratified_and_leaves_every_class(seed, groups, classes):
    rng = np.random.default_rng(seed)
    group = torch.from_numpy(rng.integers(0, groups, 2000)) * 1_000_003
    labels = torch.from_numpy((rng.integers(0, classes, 2000) + group.numpy()) % classes)
    held = hold_out(labels, group, 0.2, 10_000, seed, 0)
    assert not set(group[held].tolist()) & set(group[~held].tolist())
    largest = int(group.unique(return_counts=True)[1].max())
    assert abs(int(held.sum()) - 400) <= largest  # a group more or less
    share = labels[held].bincount(minlength=classes) / labels.bincount(minlength=classes)
    assert (share > 0).all()
    assert (share < 1).all()
    if groups > 20:
        # Random groups of the same sizes miss each share by sqrt(.2 × .8 / groups) or so; the greedy choice is nearer.
        assert (share - 0.2).abs().max() < 3 * (0.16 / groups) ** 0.5


def test_every_class_that_can_be_is_held_out():
    """Class 1 has two large groups, class 2 a single one."""
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 10)
    group = torch.cat((torch.arange(100), torch.tensor([200] * 20 + [201] * 20 + [300] * 10)))
    held = hold_out(labels, group, 0.1, 10_000, 0, 0)
    assert labels[held].bincount(minlength=3)[1:].tolist() == [20, 0]
    assert 5 <= int((held & (labels == 0)).sum()) <= 15
    assert not hold_out(labels, group, 0, 10_000, 0, 0).any()
    assert int(hold_out(labels, group, 0.5, 30, 0, 0).sum()) <= 30  # the cap


def test_the_choice_belongs_to_the_groups_name():
    names = [f"patient {k}" for k in range(50)]
    held = hold_out(torch.zeros(50, dtype=torch.int64), numbers(names), 0.2, 100, 3, 1)
    order = np.random.default_rng(0).permutation(50)
    again = hold_out(torch.zeros(50, dtype=torch.int64), numbers([names[i] for i in order]), 0.2, 100, 3, 1)
    assert {names[i] for i in held.nonzero().flatten()} == {names[order[i]] for i in again.nonzero().flatten()}
    assert len(set(numbers(names).tolist())) == 50
    assert int(numbers([None])[0]) == -1


# --------------------------------------------------------------------------------------------------------- equal files


def brute_force(splits) -> Counter:
    """(later split, earlier split) → images of the later one whose bytes the earlier one has."""
    digests = {role: [hashlib.md5(split.path(i).read_bytes()).digest() for i in range(len(split))]
               for role, split in splits.items()}
    found = Counter()
    for earlier, later in combinations(splits, 2):
        found[later, earlier] = sum(one in set(digests[earlier]) for one in digests[later])
    return +found


def test_equal_files_in_two_splits_are_found(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for i in range(40):  # of 60 contents, so that many are in two or three splits, or twice in one
            path = tmp_path / split / "ab"[i % 2] / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            k = int(rng.integers(60))
            Image.fromarray(np.random.default_rng(k).integers(0, 256, (100, 100, 3), dtype=np.uint8)).save(path)  # one size
    dataset = load_folder(tmp_path)
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    found = copies_across(splits)
    assert {(one.split, one.also_in): one.count for one in found} == brute_force(splits)
    for one in found:
        mine, other = (tmp_path / name for name in one.example)
        assert mine.read_bytes() == other.read_bytes()
        assert (mine.relative_to(tmp_path).parts[0], other.relative_to(tmp_path).parts[0]) == (
            {"validation": "val"}.get(one.split, one.split), {"validation": "val"}.get(one.also_in, one.also_in))
    note = data_notes(dataset)[-1]
    first = found[0]
    assert note.startswith(f"equal files in two splits: {first.count} images of {first.split} are in {first.also_in} too")
    assert "with another label" in note


def test_files_that_differ_in_a_byte_are_not_equal(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for i in range(6):
            pixels[20, 30, 1] += 1  # away from the pieces that are compared first
            path = tmp_path / split / "ab"[i % 2] / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    assert load_folder(tmp_path).notes == []
    (tmp_path / "test" / "a" / "0.bmp").write_bytes((tmp_path / "train" / "a" / "2.bmp").read_bytes())
    assert load_folder(tmp_path).notes == ["equal files in two splits: 1 image of test is in train too (first: test/a/0.bmp = "
                                           "train/a/2.bmp); scores on them are too good: remove the copies"]


def test_of_many_held_out_images_some_are_looked_up(tmp_path, monkeypatch):
    for split in ("train", "test"):
        for i in range(40):
            path = save(tmp_path / split / "ab"[i % 2] / f"{i:02d}.png")
            if split == "test":
                path.write_bytes((tmp_path / "train" / "ab"[i % 2] / f"{i:02d}.png").read_bytes())
    dataset = load_folder(tmp_path, validation=0)
    splits = {"train": dataset.train, "test": dataset.test}
    copies, = copies_across(splits)
    assert copies.count == 40  # all, by size first
    monkeypatch.setattr(duplicates, "MOST", 20)
    monkeypatch.setattr(duplicates, "CHECK_SOME", 10)
    copies, = copies_across(splits)
    assert copies.count == 10
    assert load_folder(tmp_path, validation=0).notes[0].endswith(
        "of 40 held-out images 10, spread evenly, were looked up for equal files in other splits")
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0" * 2000)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\1" * 2000)
    assert load_folder(tmp_path, validation=0).notes == [
        "of 40 held-out images 10, spread evenly, were looked up for equal files in other splits: none is there"]
