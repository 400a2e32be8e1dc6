"""Labels of shards: what .cls members may hold, and that a bad one costs its own image alone."""
import codecs
import io
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from broken_files import encoded

from vision.shards import load_shards
from vision.splits import Dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(number: int) -> bytes:
    return encoded(np.full((8, 8, 3), number, np.uint8)).getvalue()


def packed(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def labelled(texts: list[bytes], label_first: bool = False, key: str = "{}") -> list[tuple[str, bytes]]:
    """Members of a shard: image i is i grey, and its .cls holds texts[i]."""
    samples = [((f"{key.format(i)}.png", image(i)), (f"{key.format(i)}.cls", text)) for i, text in enumerate(texts)]
    return [member for sample in samples for member in (reversed(sample) if label_first else sample)]


def classes_of(dataset: Dataset) -> dict[int, str]:
    """Grey value → class."""
    return {split.read(i).getpixel((0, 0))[0]: dataset.classes[split.labels[i]]
            for split in (dataset.train, dataset.validation, dataset.test) for i in range(len(split))}


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize(("bad", "why"), [
    (b"", ".cls is empty"), (b" \n", ".cls is empty"), (b"cat", ".cls is a name (cat), the others' are numbers"),
    (b"\xff\xfe\x00", ".cls is no UTF-8 text"), (b"0.5", ".cls is 0.5, a fraction"), (b"1\n2", ".cls has several lines"),
    (b"-7", ".cls is -7; classes are numbered from 0"), (b"9" * 30, f".cls is {'9' * 20}; classes are numbered from 0"),
    (b"1" * 5000, ".cls is longer than 200 bytes"),
])
@pytest.mark.parametrize("at", [0, 3])
def test_a_bad_label_costs_its_image_alone(tmp_path, bad, why, at, label_first):
    packed(tmp_path / "wds" / "a.tar", labelled([bad if i == at else b"%d" % (i % 2) for i in range(40)], label_first))
    dataset = load_shards(tmp_path / "wds")
    assert classes_of(dataset) == {i: str(i % 2) for i in range(40) if i != at}
    assert dataset.skipped == {f"{tmp_path / 'wds' / 'a.tar'}:{at}.png": why}
    again = load_shards(tmp_path / "wds")  # from the cache
    assert (classes_of(again), again.skipped) == (classes_of(dataset), dataset.skipped)


def test_labels_may_be_names(tmp_path):
    forms = [unicodedata.normalize(form, "café").encode() for form in ("NFC", "NFD")]
    words = [*forms, b"dog\n", codecs.BOM_UTF8 + b"dog"]
    packed(tmp_path / "wds" / "a.tar", labelled([words[i % 4] for i in range(40)]))
    dataset = load_shards(tmp_path / "wds")
    assert dataset.classes == ("café", "dog")
    assert classes_of(dataset) == {i: ("café", "dog")[i % 4 > 1] for i in range(40)}
    assert dataset.skipped == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_classes_txt_of_any_editor_names_and_orders_them(tmp_path, encoding):
    packed(tmp_path / "names" / "a.tar", labelled([(b"thing", "café".encode())[i % 2] for i in range(40)]))
    packed(tmp_path / "numbers" / "a.tar", labelled([b"%d" % (2 * (i % 2)) for i in range(40)]))
    for root in ("names", "numbers"):
        text = "\r\n".join(("thing", "unused", unicodedata.normalize("NFD", "café"), ""))
        (tmp_path / root / "classes.txt").write_bytes(text.encode(encoding))
        dataset = load_shards(tmp_path / root)
        assert dataset.classes == ("thing", "café")
        assert classes_of(dataset) == {i: ("thing", "café")[i % 2] for i in range(40)}
        assert dataset.ignored == {}
    (tmp_path / "names" / "classes.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes.txt is no UTF-8 text \(byte 3 is wrong\)"):
        load_shards(tmp_path / "names")


def test_numbers_among_names(tmp_path):
    texts = [(b"7", b"A", b"B")[i % 3] for i in range(42)]
    packed(tmp_path / "wds" / "a.tar", labelled(texts))
    with pytest.raises(ValueError, match=r"\.cls is a number for 14 images \(7, …\) and a name for 28 \(A, …\); .*classes.txt"):
        load_shards(tmp_path / "wds")
    assert load_shards(tmp_path / "wds", labels="none").classes is None
    (tmp_path / "wds" / "classes.txt").write_text("7\nA\nB\n")
    assert classes_of(load_shards(tmp_path / "wds")) == {i: texts[i].decode() for i in range(42)}


def test_whole_floats_are_numbers_and_minus_one_is_no_label(tmp_path):
    """numpy.savetxt writes 1 as 1.0; −1 stands for labels that were withheld."""
    packed(tmp_path / "wds" / "a.tar", labelled([b"-1" if i == 5 else b"%d.000e+00" % (i % 3) for i in range(40)]))
    dataset = load_shards(tmp_path / "wds")
    assert classes_of(dataset) == {i: str(i % 3) for i in range(40) if i != 5}
    assert dataset.skipped == {f"{tmp_path / 'wds'}, train": "1 of 40 images have no .cls of a class of train"}


def test_a_label_beyond_classes_txt_costs_its_image_and_many_are_refused(tmp_path):
    root = tmp_path / "wds"
    packed(root / "a.tar", labelled([b"%d" % (99 if i == 5 else i % 2) for i in range(40)]))
    (root / "classes.txt").write_text("cat\ndog\n")
    assert classes_of(load_shards(root)) == {i: ("cat", "dog")[i % 2] for i in range(40) if i != 5}
    with pytest.raises(ValueError, match="names 2 classes, and there are labels up to 99"):
        load_shards(root, max_corrupt=0)


def test_without_any_usable_label_it_is_told(tmp_path):
    packed(tmp_path / "wds" / "a.tar", labelled([b""] * 40))
    dataset = load_shards(tmp_path / "wds")
    assert dataset.classes is None
    assert dataset.skipped == {f"{tmp_path / 'wds'}, labels": "40 of 40 images have no .cls beside them that is a label "
                                                              "(.cls is empty), so none is used"}
    with pytest.raises(ValueError, match=r"data.labels=folders: 40 of 40 images .*\(.cls is empty\); data.labels=none"):
        load_shards(tmp_path / "wds", labels="folders")


def test_many_bad_labels_are_named_up_to_a_thousand(tmp_path, monkeypatch):
    monkeypatch.setattr("vision.shards.NAMED", 3)
    packed(tmp_path / "wds" / "a.tar", labelled([b"" if i < 5 else b"%d" % (i % 2) for i in range(40)]))
    dataset = load_shards(tmp_path / "wds")
    assert len(classes_of(dataset)) == 35
    assert list(dataset.skipped.values()) == [".cls is empty"] * 3 + ["2 more images have a .cls that is no label"]


@pytest.mark.parametrize("label_first", [False, True])
def test_keys_may_have_dots(tmp_path, label_first):
    members = labelled([b"%d" % (i % 2) for i in range(40)], label_first, "photo.v2.{}")
    packed(tmp_path / "wds" / "a.tar", members)
    dataset = load_shards(tmp_path / "wds")
    assert classes_of(dataset) == {i: str(i % 2) for i in range(40)}
    assert dataset.skipped == dataset.ignored == {}
    more = [("40.png", image(40)), ("40.cls", b"1"), ("40.mask.png", image(41)), ("40.json", b"{}")]
    packed(tmp_path / "wds" / "b.tar", more)
    dataset = load_shards(tmp_path / "wds")
    assert sorted(classes_of(dataset)) == list(range(41))  # not the mask
    assert dataset.ignored == {"second image of a sample": 1, ".json": 1}
    packed(tmp_path / "plain" / "a.tar", [member for member in members if member[0].endswith("png")])
    assert len(load_shards(tmp_path / "plain").pretrain) == 36  # and 4 of validation


def test_litter_in_shards_makes_no_images(tmp_path):
    members = labelled([b"%d" % (i % 2) for i in range(10)])
    members += [("._0.png", image(99)), ("__MACOSX/1.png", image(99)), ("./._2.cls", b"9"), ("notes.txt", b"x")]
    packed(tmp_path / "wds" / "a.tar", members)
    packed(tmp_path / "wds" / "@eaDir" / "b.tar", labelled([b"0"]))
    (tmp_path / "wds" / "index.json").write_text("{}")
    dataset = load_shards(tmp_path / "wds")
    assert sorted(classes_of(dataset)) == list(range(10))
    assert dataset.ignored == {"._*": 2, "in __MACOSX/": 1, ".txt": 1, ".json": 1, "@eaDir/": 1}
