"""A cell's address: what changes it, and what does not."""
from commands import ROOT
from test_rooms import ROOMS, imports
from toy_table import TABLE, TOOL, calls

from experiments import cells
from experiments.table import Table


def test_changed_code_is_another_address_and_a_comment_is_not(place, monkeypatch):
    monkeypatch.setattr(cells, "ROOT", place)

    def id() -> str:
        cells.version.cache_clear()
        return Table.load("sums.yaml").cells[0].id

    first = id()
    path = place / "toy" / "work.py"
    path.write_text("'''What it does.'''\n# why\n" + TOOL)
    documented = id()
    path.write_text("'''It does it.'''\n\n# because\n" + TOOL)
    assert id() == documented
    path.write_text(TOOL + "\nprint(1)\n")
    assert id() not in (first, documented)
    cells.version.cache_clear()


def test_what_ran_while_its_code_changed_is_not_filed(place, monkeypatch):
    monkeypatch.setattr(cells, "ROOT", place)
    cells.version.cache_clear()
    cell = Table.load("sums.yaml").cells[0].needs[0][1]
    path = place / "toy" / "work.py"
    for _ in range(2):  # again under the same address it is not even begun
        assert cells.perform(cell, {}, lambda process: path.write_text(TOOL + "\nprint(1)\n")) == "failed"
        assert not cell.done
        assert cell.why == cells.CHANGED
    assert calls(place) == ["first-1"]
    now = Table.load("sums.yaml").cells[0].needs[0][1]
    assert cells.perform(now, {}) == "done"
    cells.version.cache_clear()


def test_of_methods_an_address_knows_its_own_and_recipes_by_what_is_in_them(place, monkeypatch):
    monkeypatch.setattr(cells, "ROOT", place)
    (place / "toy" / "method").mkdir()
    for name in ("one", "two", "three"):
        (place / "toy" / "method" / f"{name}.py").write_text("from toy.method.three import x\n" if name == "one" else "x = 1\n")
    (place / "recipe.yaml").write_text("method: two\n")
    (place / "sums.yaml").write_text(TABLE.replace('add: "{base}"', 'add: "{base}", method: one').replace(
        'add: "{more}"', 'add: "{more}", recipe: recipe.yaml'))

    def ids() -> list[str]:
        cells.version.cache_clear()
        second = Table.load("sums.yaml").cells[0]
        return [second.needs[0][1].id, second.id]

    before = ids()
    (place / "toy" / "method" / "new.py").write_text("x = 2\n")
    assert ids() == before
    (place / "toy" / "method" / "two.py").write_text("x = 2\n")
    after = ids()
    assert after[0] == before[0]
    assert after[1] != before[1]
    (place / "toy" / "method" / "three.py").write_text("x = 3\n")  # `one` is built on it
    assert ids()[0] != before[0]
    before = ids()
    (place / "recipe.yaml").write_text("method: two\nepochs: 3\n")
    assert ids()[0] == before[0]
    assert ids()[1] != before[1]
    cells.version.cache_clear()


def test_an_address_knows_every_room_whose_code_its_tool_runs():
    for room in set(ROOMS) - {"core", "vision", "paper_figures"}:
        used = {name.split(".")[0] for path in (ROOT / room).rglob("*.py") for name in imports(path.read_text())} & set(ROOMS)
        assert used <= {*cells.SHARED, room, *cells.OTHERS.get(room, ())}, room
