"""Names of files in print, and the lines on what a data set leaves out."""
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest

from vision import datasets
from vision.data import data_notes
from vision.listing import class_name, ignored_note, kind_of, one_line, printable


@pytest.mark.parametrize(("path", "printed"), [
    (b"a/b c.png", "a/b c.png"), ("Ünï😀👩‍🔬 – x.png".encode(), "Ünï😀👩‍🔬 – x.png"), (b"a\nb", "a\\nb"), (b"a\\nb", "a\\\\nb"),
    (b"\t\r\x1b[31m\x7f", "\\t\\r\\x1b[31m\\x7f"), (b"caf\xe9", "caf\\xe9"),
    ("\x85\u2028\u2029".encode(), "\\x85\\u2028\\u2029"),
    (b"\xed\xb3\xa9", "\\xed\\xb3\\xa9"), ("e\u0301".encode(), "e\u0301"),
])
def test_a_name_prints_on_one_line(path, printed):
    assert printable(path) == printed
    assert len(printable(path).splitlines()) == 1
    assert one_line(printable(path)) == printable(path)
    printable(path).encode()


def test_different_paths_print_differently():
    paths = [b"a\nb", b"a\\nb", b"a\\\nb", b"a\\\\nb", b"\xe9", b"\\xe9", "é".encode()]
    assert len({printable(path) for path in paths}) == len(paths)


def test_class_names_are_nfc():
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "café")
        assert class_name(text) == class_name(text.encode()) == "café"
    assert class_name(b"caf\xe9\n") == "caf\\xe9\\n"
    assert class_name(b"a\\b") == "a\\b"
    assert class_name("K") != class_name("k")


def test_kinds_of_files_are_few():
    names = [b"x.HEIC", b"x.mov", b"README", b"IM.0001", b"IM.0002", b"a.TAR.gz"]
    names += [b"Mr. Smith", b"x.waytoolongasuffix", b"x.\xff"]
    assert list(map(kind_of, names)) == [".heic", ".mov", "without suffix", ".<number>", ".<number>", ".tar.gz",
                                         "without suffix", "without suffix", ".\\xff"]


def test_the_note_on_ignored_files_counts_by_kind_and_says_the_way_out():
    assert ignored_note({}) == ""
    note = ignored_note({".heic": 200, ".mov": 60, "without suffix": 15, "@eaDir/": 3, "in @eaDir/": 1})
    assert note.startswith("276 other files ignored (200 .heic, 60 .mov, 15 without suffix, 1 in @eaDir/), "
                           "3 folders ignored (3 @eaDir/); images are recognized by these suffixes: ")
    assert ".jpeg" in note
    assert ignored_note({"@eaDir/": 1}) == "1 folder ignored (1 @eaDir/)"
    assert "…" in ignored_note(Counter({f".{i}x": 1 for i in range(20)}))


def test_the_note_on_what_is_left_out_counts_by_reason():
    data = datasets.load("digits")
    assert data_notes(data) == []
    skipped = {f"a\n{i}": f"{i + 3} by 9 pixels" for i in range(12)}
    skipped |= {"b": "empty file", "c": "empty file", "d": "x", "e": "y"}
    notes = data_notes(replace(data, skipped=skipped, ignored={".mov": 1}))
    assert notes[0] == "16 items are left out (12 × 3 by 9 pixels, 2 × empty file, x, …); first: a\\n0"
    assert notes[1].startswith("1 other file ignored (1 .mov)")
    assert data_notes(replace(data, skipped={"b": "empty file"})) == ["1 item is left out (empty file); first: b"]
