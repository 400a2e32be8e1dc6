"""nas.report --compare: the fronts of studies on the tabular benchmark, against the table itself."""
from dataclasses import replace

import pytest
from commands import ROOT

from nas import compare
from nas.halving import Halving
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.tabular import Table
from tests.nas.table_with_encoders import TableWithEncoders
from tests.nas.test_scheduler import in_memory, open_store  # noqa: F401

TABLE = Table(ROOT / "experiments" / "tabular" / "fashion_mnist.json")


def study(name: str, seed: int) -> compare.Study:
    objectives = {"knn": "maximize", "macs": "minimize"}
    config = SearchConfig(10, Halving.of(9, 1, 3), objectives, {}, "random", seed, 3600.0)
    store = open_store(name, objectives)
    Worker(store, config, TableWithEncoders(TABLE, seed)).run()
    return compare.Study(name, {"seed": seed, "study": name}, config, store.records(), store.replicates())


def test_rows_are_the_fronts_and_name_what_differs(in_memory, tmp_path):  # noqa: F811
    one, other = study("one", 0), study("other", 1)
    text = compare.write([one, other], tmp_path)
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "compare.md").read_text().startswith(text)
    assert "one → other: seed: 0 → 1." in text
    for found in (one, other):
        rows = {int(line.split("|")[2]): [cell.strip() for cell in line.split("|")]
                for line in text.splitlines() if line.startswith(f"| {found.name} |")}
        by_number = {r.number: r for r in found.records}
        figures = {n: (TABLE.knn(r.hash, 9, found.config.seed), TABLE.rows[r.hash]["macs"]) for n, r in by_number.items()}
        best = {n for n, (knn, macs) in figures.items()
                if not any(k >= knn and m <= macs and (k, m) != (knn, macs) for k, m in figures.values())}
        assert rows.keys() == best
        for number, cells in rows.items():
            knn, macs = figures[number]
            assert (cells[3], cells[6]) == (f"{knn:.4g}", f"{macs:.4g}")
            expected, _, interval = cells[4].partition(" ± ")
            assert abs(float(expected) - knn) < 10
            assert float(interval) > 0


def test_studies_of_other_objectives_are_refused(in_memory):  # noqa: F811
    one = study("one", 0)
    other = replace(one, name="other", config=replace(one.config, objectives={"loss": "minimize", "macs": "minimize"}))
    with pytest.raises(ValueError, match="one knn,macs, other loss,macs"):
        compare.axes([one, other])
