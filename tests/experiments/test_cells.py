"""A cell's address: what changes it, and what does not."""
from commands import ROOT
from test_imports import PACKAGES, imports
from toy_table import TABLE, TOOL, calls

from experiments import cells, code_version
from experiments.table_file import load


def test_changed_code_is_another_address_and_a_comment_is_not(place, monkeypatch):
    monkeypatch.setattr(code_version, "ROOT", place)

    def id() -> str:
        code_version.code_version.cache_clear()
        return load("sums.yaml").cells[0].id

    first = id()
    path = place / "toy" / "work.py"
    path.write_text("'''What it does.'''\n# why\n" + TOOL)
    documented = id()
    path.write_text("'''It does it.'''\n\n# because\n" + TOOL)
    assert id() == documented
    path.write_text(TOOL + "\nprint(1)\n")
    assert id() not in (first, documented)
    code_version.code_version.cache_clear()


def test_a_cell_whose_code_changed_while_it_ran_is_not_done(place, monkeypatch):
    monkeypatch.setattr(code_version, "ROOT", place)
    code_version.code_version.cache_clear()
    cell = load("sums.yaml").cells[0].needs[0][1]
    path = place / "toy" / "work.py"
    for _ in range(2):  # again under the same address it is not even begun
        assert cells.run_cell(cell, {}, lambda process: path.write_text(TOOL + "\nprint(1)\n")) == "failed"
        assert not cell.done
        assert cell.last_line == cells.CHANGED
    assert calls(place) == ["first-1"]
    now = load("sums.yaml").cells[0].needs[0][1]
    assert cells.run_cell(now, {}) == "done"
    code_version.code_version.cache_clear()


def test_an_address_depends_on_its_own_method_and_on_a_recipes_content(place, monkeypatch):
    monkeypatch.setattr(code_version, "ROOT", place)
    (place / "toy" / "method").mkdir()
    for name in ("one", "two", "three"):
        (place / "toy" / "method" / f"{name}.py").write_text("from toy.method.three import x\n" if name == "one" else "x = 1\n")
    (place / "recipe.yaml").write_text("method: two\n")
    (place / "sums.yaml").write_text(TABLE.replace('add: "{base}"', 'add: "{base}", method: one').replace(
        'add: "{more}"', 'add: "{more}", recipe: recipe.yaml'))

    def ids() -> list[str]:
        code_version.code_version.cache_clear()
        second = load("sums.yaml").cells[0]
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
    code_version.code_version.cache_clear()


def test_an_address_depends_on_every_package_whose_code_its_tool_runs():
    for package in set(PACKAGES) - {"core", "vision", "paper_figures"}:
        paths = (ROOT / package).rglob("*.py")
        used = {name.split(".")[0] for path in paths for name in imports(path.read_text())} & set(PACKAGES)
        assert used <= {*code_version.SHARED, package, *code_version.FURTHER.get(package, ())}, package
