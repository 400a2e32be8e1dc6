"""Figures are read from cells' files by paths, and a table's result is the same after writing and reading its JSON."""
import json
import re

import pytest
from commands import ROOT
from toy_table import TABLE, calls

from experiments import reproduce
from experiments.provenance import Provenance
from experiments.render import grid, markdown
from experiments.results import Column, ResultRow, TableResult, lookup, read

MEASURED = sorted((ROOT / "experiments" / "tables" / "measured").glob("*.json"))


def test_paths_find_numbers_and_say_what_is_there_instead():
    tree = {
        "a": {"b": [3, {"c": 4.5}]}, "k": {"student: x.y, kd": {"v": 9}, "teacher: z": {"v": 8}}, "l": [1, 2],
        "rows": [{"n": "x", "v": 1}, {"n": "y", "v": 2}],
    }
    for path, value in (("a.b.0", [3]), ("a.b.1.c", [4.5]), ("rows[n=y].v", [2]), ("k.student*.v", [9]), ("l", [1, 2])):
        assert lookup(tree, path) == value
    for path, said in (("a.d", "there is no d after a; there is b"), ("rows[n=z].v", "0 entries"), ("a.b", "is no number"),
                       ("a.b.7", "there is no 7 after a.b")):
        with pytest.raises(ValueError, match=re.escape(said)):
            lookup(tree, path)


def test_a_share_of_labels_is_a_number_in_files_of_either_form():
    for labels in ("10 %", 0.1):
        rows = [{"source": "encoder", "labels": labels, "v": 1}, {"source": "encoder", "labels": "100 %", "v": 2}]
        assert lookup(rows, "[source=encoder,labels=0.1].v") == [1]
        assert lookup(rows, "[source=encoder,labels=1].v") == [2]


def test_of_a_log_the_last_line_counts(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"rankme": 1}\n{"rankme": 2}\n')
    assert lookup(read(tmp_path / "metrics.jsonl"), "rankme") == [2]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_kept_table_is_the_same_after_reading_and_writing(path):
    kept = json.loads(path.read_text())
    again = json.loads(TableResult.from_json(kept).to_json())
    for row, before in zip(again["rows"], kept["rows"], strict=True):
        assert {name: row[name] for name in before} == before
    assert {key: again[key] for key in kept if key not in ("rows", "columns", "code")} == {
        key: kept[key] for key in kept if key not in ("rows", "columns", "code")
    }
    assert markdown(TableResult.from_json(kept)) == path.with_suffix(".md").read_text()


def test_a_reference_is_never_the_best():
    rows = [ResultRow("a", {"a": [1.0]}), ResultRow("b", {"a": [2.0]}), ResultRow("pixels", {"a": [3.0]}, reference=True)]
    result = TableResult("t", "T", "", [0], {"a": Column("a", best="high")}, rows, {}, Provenance("python -m x", ("abc",), {}))
    assert [row[1].best for row in grid(result)[1]] == [False, True, False]


@pytest.mark.slow
def test_a_row_may_show_its_cells_record(place):
    (place / "sums.yaml").write_text(TABLE.replace("v: \"{second.scores}#rows[source=b].v\"", "v: \"{second.record}#seconds\""))
    assert reproduce.main(["--table=sums.yaml", "--smoke"]) == 0
    row = json.loads((place / "runs" / "tables" / "sums-smoke" / "table.json").read_text())["rows"][0]
    assert row["values"]["v"][0] > 0


@pytest.mark.slow
def test_words_are_settings_and_a_note_says_so(place, capsys):
    (place / "sums.yaml").write_text(TABLE.replace("    settings:", "    words:"))
    assert reproduce.main(["--table=sums.yaml", "--smoke"]) == 0
    assert "sums.yaml: a cell's words are its settings now" in capsys.readouterr().err
    assert len(calls(place)) == 3
