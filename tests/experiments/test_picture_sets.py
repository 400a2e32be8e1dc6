"""Folders of pictures that packages ship. The photographs of scikit-image and scikit-learn are here whatever Debian has."""
import json
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import picture_sets
from experiments.picture_sets import LEAST_GROUPS, Picture, build, split_of, unique


def noise(seed: int, label: str, group: str) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 4), np.uint8)
    return Picture(label, group, str(seed), Image.fromarray(pixels))


def test_no_group_is_in_two_splits_and_their_shares_are_about_those_asked_for():
    found = [split_of(f"unit {i}") for i in range(4000)]
    for split, share in (("train", 0.60), ("val", 0.15), ("test", 0.25)):
        deviation = (share * (1 - share) / 4000) ** 0.5
        assert abs(found.count(split) / 4000 - share) < 4 * deviation
    assert split_of("unit 7") == split_of("unit 7")


def test_copies_and_classes_of_few_groups_are_left_out():
    many = [noise(i, "many", f"m{i}") for i in range(LEAST_GROUPS)]
    few = [noise(100 + i, "few", f"f{i % 3}") for i in range(3 * LEAST_GROUPS)]
    copy = noise(0, "few", "other")  # the pixels of the first one
    kept = unique([*many, *few, copy])
    assert [picture for picture, _ in kept] == many


def test_what_is_transparent_is_laid_over_white():
    images = [Image.new("RGBA", (4, 4), (i, 0, 0, 0)) for i in range(3)]
    images += [Image.new("RGBA", (4, 4), (10 * i, 0, 0, 255)) for i in range(LEAST_GROUPS)]
    kept = unique(Picture("a", str(i), str(i), image) for i, image in enumerate(images))
    assert np.asarray(kept[0][1]).min() == 255
    assert len(kept) == 1 + LEAST_GROUPS, "the transparent ones are one white picture"


def test_a_set_is_written_whole_and_never_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(picture_sets.SETS, "icons", lambda: iter([noise(i, "A b", str(i)) for i in range(40)]))
    monkeypatch.setattr(sys, "argv", ["picture_sets", "--set", "icons", "--out", str(tmp_path / "x" / "icons")])
    picture_sets.main()
    about = json.loads(capsys.readouterr().out)
    files = list((tmp_path / "x" / "icons").glob("*/a_b/*.png"))
    assert len(files) == about["train"] + about["val"] + about["test"] == 40
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["icons"], "no folder of unfinished work is left"
    with pytest.raises(SystemExit, match="is there already"):
        build("icons", tmp_path / "x" / "icons")


def test_a_missing_package_is_named():
    with pytest.raises(SystemExit, match=r"apt-get install no-such-package"):
        picture_sets.installed("/usr/share/no/such/file", "no-such-package")
    with pytest.raises(SystemExit, match=r"no-such-pytorch-model is missing"):
        picture_sets.weights("no-such", None)
