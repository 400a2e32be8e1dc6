"""`python -m paper_figures.make`: every kind of figure, drawn from what cells leave; the same bytes each time."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from PIL import Image

from paper_figures import make
from paper_figures.draw import KINDS, interval

SPEC = {"name": "searched_resnet", "channels": 1, "image_size": 28, "stem": "half",
        "arguments": {"stages": [["basic", 2, 16, 3], ["basic", 1, 64, 5]], "stem_width": 8}}


@pytest.fixture
def table(tmp_path) -> Path:
    for seed in (0, 1):
        rows = [{"step": s, "epoch": s / 10, "loss": 5 + seed - s / 10} | {"knn": 50.0 + s} for s in range(20)]
        (tmp_path / f"metrics-{seed}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trials = [{"number": n, "costs": {"macs": 1.0 + n}, "encoder": SPEC, "rungs": [
        {"epochs": e, "values": [60.0 + 3 * n - n * n / 4 + e]} for e in ((1, 3) if n % 2 else (1,))]} for n in range(8)]
    (tmp_path / "study.json").write_text(json.dumps({"trials": trials, "front": [7]}))
    speeds = {"unit": "images/s", "hardware": {"cpu": "a CPU", "gpu": None}, "cases": {
        name: {"against": "lightly", "ratio": {"median": r, "min": r - 0.5, "max": r + 1}} for name, r in (("x", 2), ("y", 5))}}
    (tmp_path / "speed.json").write_text(json.dumps(speeds))
    spread = {"min": 90.0, "median": 100.0, "max": 105.0}
    twice = {end: 1.9 * value for end, value in spread.items()}
    (tmp_path / "scaling.json").write_text(json.dumps(
        {"hardware": {"cpu": "a CPU", "gpu": None}, "cases": {"2": {"processes": 2, "peer": spread, "ours": twice}}}))
    rng = np.random.default_rng(0)
    (tmp_path / "figures.json").write_text(json.dumps({
        "classes": ["shirt", "shoe"], "confusion": [[9, 1], [0, 7]], "labels": [0, 1] * 20,
        "map": {title: rng.normal(size=(40, 2)).tolist() for title in ("PCA (40 % of the variance)", "t-SNE", "UMAP")}}))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "views.png")
    rows = [{"name": name, "values": {"a": v, "b": v}, "mean": {"a": np.mean(v), "b": np.mean(v)},
             "std": {"a": np.std(v, ddof=1), "b": 0.1}, "published": {"a": [70, "source"]}} for name, v in
            (("one & two", [69, 71, 70]), ("three", [60, 66, 63]))]
    figures = {
        "pretraining": {"kind": "curves", "runs": {"x": [str(tmp_path / f"metrics-{s}.jsonl") for s in (0, 1)]}},
        "views": {"kind": "image", "file": [str(tmp_path / "views.png")] * 2},
        "lines": {"kind": "lines", "columns": {"a": 10, "b": 100}},
        "comparison": {"kind": "comparison", "columns": ["a", "b", "a"]},
        "search": {"kind": "front", "study": str(tmp_path / "study.json")},
        "found": {"kind": "architecture", "study": str(tmp_path / "study.json")},
        "confusion": {"kind": "confusion", "file": [str(tmp_path / "figures.json")]},
        "embedding": {"kind": "embedding", "file": str(tmp_path / "figures.json")},
        "scaling": {"kind": "scaling", "results": str(tmp_path / "scaling.json")},
        "speed": {"kind": "speed", "results": str(tmp_path / "speed.json")},
    }
    content = {"table": "t", "columns": {"a": {"title": "A, %"}, "b": {}}, "rows": rows, "figures": figures}
    (tmp_path / "table.json").write_text(json.dumps(content))
    return tmp_path / "table.json"


@pytest.mark.long
def test_every_kind_is_drawn_and_the_same_bytes_again(table, tmp_path):
    figures = json.loads(table.read_text())["figures"]
    assert {figure["kind"] for figure in figures.values()} == set(KINDS)
    for out in ("first", "second"):
        subprocess.run([sys.executable, "-m", "paper_figures.make", f"--table={table}", f"--out={tmp_path / out}"], cwd=ROOT,
                       check=True, timeout=120)
    for name in figures:
        for suffix in ("pdf", "png"):
            one, two = ((tmp_path / out / f"{name}.{suffix}").read_bytes() for out in ("first", "second"))
            assert one == two
        pdf = (tmp_path / "first" / f"{name}.pdf").read_bytes()
        assert b"CreationDate" not in pdf
        assert name == "views" or b"/FontFile2" in pdf  # fonts are embedded
        width = float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[1]) / 72
        assert width <= 7.2  # inches: two columns of a paper
        assert np.asarray(Image.open(tmp_path / "first" / f"{name}.png").convert("L")).std() > 5  # there is something to see


@pytest.mark.parametrize("arguments", [
    {"stages": [[4, 2, 16, 3], [6, 1, 24, 5]], "head_width": 128}, {"layers": [1, 2], "channels": [32, 64], "stem_width": 16},
])
def test_other_families_are_drawn_too(table, tmp_path, arguments):
    study = json.loads((tmp_path / "study.json").read_text())
    study["trials"][7]["encoder"] = SPEC | {"arguments": arguments}
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert make.main([f"--table={table}", f"--out={tmp_path / 'out'}", "--only", "found"]) == 0


def test_an_encoder_without_stages_is_refused(table, tmp_path, capsys):
    study = json.loads((tmp_path / "study.json").read_text())
    study["trials"][7]["encoder"] = SPEC | {"name": "vit_tiny_patch16_224", "arguments": {"depth": 3}}
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert make.main([f"--table={table}", f"--out={tmp_path / 'out'}", "--only", "found"]) == 1
    assert "vit_tiny_patch16_224 is not built of stages" in capsys.readouterr().err


def test_the_interval_of_a_mean_is_students():
    from scipy import stats

    values = np.array([69.0, 71.0, 70.5, 68.0])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)
    assert interval(np.array([1.0])) == 0


def test_it_imports_no_torch_and_no_other_package():
    code = "import sys, paper_figures.make, paper_figures.draw; assert not {'torch', 'core', 'experiments'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (["--table=none"], "there is no runs/tables/none/table.json; experiments.reproduce makes it"),
    (["--only", "sarch"], "only=sarch: t has pretraining, views, lines"),
])
def test_a_mistake_is_one_line(table, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert make.main([f"--table={table}", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.long
def test_a_figure_that_cannot_be_drawn_lets_the_others_be(table, capsys, tmp_path):
    (tmp_path / "study.json").unlink()
    assert make.main([f"--table={table}", f"--out={tmp_path / 'out'}"]) == 1
    err = capsys.readouterr().err
    assert "no search: FileNotFoundError" in err
    assert (tmp_path / "out" / "speed.pdf").exists()


COMMITTED = sorted((ROOT / "experiments" / "tables" / "measured").glob("*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_table_is_drawn_from_the_repository_alone(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    figures = json.loads(path.read_text())["figures"]
    assert "runs/" not in json.dumps(figures)
    assert make.main(["--table", str(path), "--out", str(tmp_path)]) == 0
    assert sorted(picture.stem for picture in tmp_path.glob("*.png")) == sorted(figures)
