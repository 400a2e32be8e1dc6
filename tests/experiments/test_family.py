"""The table of all methods holds what its cells say, from one machine and one budget, and nothing is run twice."""
import json
import sys

import pytest

from experiments import family

RECIPES = family.HERE / "recipes" / "fashion_mnist"
MACHINE = {"hardware": {"cpu": "a", "cores": 1}, "versions": {"torch": "2"}, "protocol": family.PROTOCOL}


def cell(method: str, seed: int, logistic: float, **more) -> dict:
    scores = {"knn": logistic - 1, "logistic": logistic, "five_labels": 50.0}
    test = {"raw pixels": scores | {"logistic": 80.0}, "untrained": scores | {"logistic": 70.0 + seed}, "pretrained": scores}
    done = {"method": method, "seed": seed, "fingerprint": family.fingerprint(RECIPES / f"{method}.yaml"), "steps": 10}
    done |= {"test": test, "cpu_minutes": 2.0, "health": {"rankme": 40.0}, "verdict": "healthy"}
    return done | MACHINE | more


def test_scores_are_means_over_seeds_and_baselines_count_a_seed_once():
    cells = [cell("simclr", 0, 80.0), cell("simclr", 1, 82.0), cell("byol", 0, 90.0), cell("byol", 1, 90.0)]
    rows = family.summary(cells)
    assert rows["simclr"]["logistic"] == {"mean": 81.0, "std": 1.41}
    assert rows["byol"]["knn"] == {"mean": 89.0, "std": 0.0}
    assert rows["untrained"]["logistic"] == {"mean": 70.5, "std": 0.71}  # of two seeds, not of four cells
    assert rows["simclr"]["seeds"] == 2


def test_the_table_is_in_order_and_names_what_failed(tmp_path):
    failed = {key: value for key, value in cell("dino", 0, 0.0).items() if key not in ("test", "steps")}
    cells = [cell("simclr", 0, 80.0), cell("byol", 0, 90.0), failed | {"failed": "exit code 1"}]
    text = family.table(family.keep(tmp_path / "x.json", "fashion_mnist", cells))
    assert text.index("| byol | 90.0") < text.index("| simclr | 80.0") < text.index("| raw pixels | 80.0")
    assert "Failed: dino, seed 0 (exit code 1)." in text
    assert (tmp_path / "x.md").read_text() == text
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("other", [{"steps": 11}, {"hardware": {"cpu": "b", "cores": 1}}, {"versions": {"torch": "3"}}])
def test_cells_of_two_machines_or_budgets_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match=f"cells differ in {next(iter(other))}"):
        family.keep(tmp_path / "x.json", "fashion_mnist", [cell("simclr", 0, 80.0), cell("byol", 0, 80.0, **other)])


def test_what_is_done_is_not_run_again_unless_its_recipe_has_changed(tmp_path, monkeypatch, capsys):
    ran = []

    def run(recipe, seed, out):
        ran.append((recipe.stem, seed))
        out.mkdir(parents=True, exist_ok=True)
        (out / "cell.json").write_text(json.dumps(cell(recipe.stem, seed, 85.0)))

    monkeypatch.setattr(family, "cell", run)
    words = ["--methods", "simclr", "byol", "--kept", str(tmp_path / "kept"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["family", *words])
    assert family.main() == 0
    assert ran == [("simclr", 0), ("byol", 0)]
    assert family.main() == 0
    assert len(ran) == 2
    path = tmp_path / "runs" / "fashion_mnist" / "byol-0" / "cell.json"
    path.write_text(json.dumps(cell("byol", 0, 85.0, fingerprint="of another recipe")))
    (tmp_path / "kept" / "fashion_mnist.json").unlink()
    assert family.main() == 0
    assert ran[2:] == [("byol", 0)]
    assert "| byol | 85.0 |" in capsys.readouterr().out
