"""The benchmarks run, and their table shows what was kept. No figure of a test means anything."""
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.speed import table
from experiments.speed.side_by_side import arguments, compare, figure, paired, report

ROOT = Path(__file__).resolve().parents[2]
TWO_CORES = {"cpu": "Some CPU", "cores": 2, "gpu": None, "threads": 2}
VERSIONS = {"python": "3.11", "torch": "2.15.0", "lightly": "1.6.0"}


def command(module: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True)


def spread(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "min": low, "max": high}


def keep(folder: Path, name: str, cases: dict, unit="images/s", hardware=TWO_CORES, versions=VERSIONS, notes=None) -> None:
    document = {"unit": unit, "hardware": hardware, "versions": versions, "cases": cases, "notes": notes or {}}
    (folder / f"{name}.json").write_text(json.dumps(document))


def case(peer: float, ours: float, against: str = "lightly") -> dict:
    ratio = ours / peer
    spreads = {"peer": spread(peer, peer, peer), "ours": spread(ours, ours, ours)}
    return {"against": against, **spreads, "ratio": spread(ratio, ratio * 0.9, ratio * 1.1)}


@pytest.mark.parametrize("name", list(table.TITLES))
def test_a_benchmark_can_be_imported(name):
    assert callable(importlib.import_module(f"experiments.speed.{name}").main)


@pytest.mark.long
@pytest.mark.parametrize("name", list(table.TITLES))
def test_a_benchmark_runs_at_its_quick_size_and_keeps_its_cases(name, tmp_path):
    ended = command(f"experiments.speed.{name}", "--quick", "--device", "cpu", "--keep", "--results", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    kept = json.loads((tmp_path / f"{name}-cpu.json").read_text())
    assert kept["cases"]
    for figures in kept["cases"].values():
        assert 0 < figures["ratio"]["min"] <= figures["ratio"]["median"] <= figures["ratio"]["max"]
    assert [path.name for path in table.draw(tmp_path)] == ["table.md", "chart.png"]


def test_the_table_has_the_ratios_that_were_kept(tmp_path):
    keep(tmp_path, "step-cpu", {
        "resnet10t; lightly": case(400, 1200),
        "resnet10t; encoder alone": case(2000, 1200, "encoder alone"),
        "resnet10t; lightly v2": case(400, 800, "lightly v2"),
    }, notes={"share": "40 %"})
    keep(tmp_path, "losses-cpu", {"DINO": case(0.25, 0.5)}, "calls/s")
    keep(tmp_path, "memory-cpu", {"NT-Xent": case(100, 5000) | {"ratio": spread(50, 50, 50)}}, "MB")
    assert [path.name for path in table.draw(tmp_path)] == ["table.md", "chart.png"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("|")][2:] == [
        "| SimCLR end to end: resnet10t | lightly 1.6.0 | 400 images/s | 1,200 images/s | 3× (2.7 … 3.3) |",
        "| SimCLR end to end: resnet10t | encoder alone | 2,000 images/s | 1,200 images/s | 0.6× (0.54 … 0.66) |",
        "| SimCLR end to end: resnet10t | lightly 1.6.0 v2 | 400 images/s | 800 images/s | 2× (1.8 … 2.2) |",
        "| loss, forward and backward: DINO | lightly 1.6.0 | 4 s | 2 s | 2× (1.8 … 2.2) |",
        "| extra memory: NT-Xent | lightly 1.6.0 | 100 MB | 5,000 MB | 50× (50 … 50) |",
    ]
    assert "**CPU**: 2 cores of Some CPU; python 3.11, torch 2.15.0, lightly 1.6.0" in lines
    assert "- share: 40 %" in lines
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width == 1500


def test_a_gpu_has_a_table_of_its_own(tmp_path):
    keep(tmp_path, "step-cpu", {"a": case(1, 2)})
    keep(tmp_path, "step-gpu", {"a": case(1, 3)}, hardware=TWO_CORES | {"gpu": "Some GPU"})
    table.draw(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.index("2× (") < text.index("Some GPU") < text.index("3× (")


@pytest.mark.parametrize("changed", [
    {"hardware": TWO_CORES | {"cores": 16}},
    {"versions": VERSIONS | {"torch": "2.16.0"}},
])
def test_figures_of_two_machines_or_versions_are_refused(tmp_path, changed):
    keep(tmp_path, "step-cpu", {"a": case(1, 2)})
    keep(tmp_path, "losses-cpu", {"b": case(1, 2)}, **changed)
    with pytest.raises(ValueError, match=f"losses-cpu.json has {next(iter(changed))}.*step-cpu.json"):
        table.draw(tmp_path)


def test_a_folder_without_figures_gives_no_table(tmp_path):
    assert table.draw(tmp_path) == []


def test_kept_figures_of_another_machine_are_dropped_not_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--keep", "--results", str(tmp_path), "--device", "cpu"])
    settings = arguments("")
    keep(tmp_path, "step-cpu", {"old": case(1, 2)})
    report("step", "images/s", {"new": case(1, 4)}, settings)
    report("step", "images/s", {"newer": case(1, 5)}, settings)
    assert list(json.loads((tmp_path / "step-cpu.json").read_text())["cases"]) == ["new", "newer"]


def test_quick_takes_the_small_sizes_and_may_not_be_kept_among_the_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--batch", "7"])
    settings = arguments("", images=(1024, "how many", 32), batch=(256, "how many", 16), size=(224, "pixels"))
    assert (settings.rounds, settings.images, settings.batch, settings.size) == (1, 32, 7, 224)
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--keep"])
    with pytest.raises(SystemExit):
        arguments("")


def test_contestants_take_turns_and_the_first_pair_is_not_counted():
    calls = []
    figures = compare(lambda: calls.append("peer") or 10, lambda: calls.append("ours") or 20, 3, against="someone")
    assert calls == ["peer", "ours"] * 4
    assert figures["against"] == "someone"


def test_ratios_are_taken_round_by_round():
    # 4/1, 4/2, 3/3: their median is 2; that of the medians would be 4/2 too, but the ends would not be 1 and 4.
    assert paired([1, 2, 3], [4, 4, 3])["ratio"] == spread(2, 1, 4)


@pytest.mark.parametrize(("value", "unit", "text"), [
    (1234.5, "images/s", "1,234 images/s"),
    (0.5, "calls/s", "2 s"),
    (250, "calls/s", "4 ms"),
    (2e6, "updates/s", "0.5 µs"),
    (97.2, "MB", "97 MB"),
])
def test_figures_read_as_a_reader_wants_them(value, unit, text):
    assert figure(value, unit) == text


def test_computed_memory_is_linear_and_its_comment_right():
    from experiments.speed import memory

    assert memory.computed(8192, 128) == 72
    assert memory.computed(65536, 128) == pytest.approx(2 * memory.computed(32768, 128), rel=0.01)
    assert memory.dense(65536) == 64 * 1024  # (131,072)² · 4 bytes


def test_losses_that_are_timed_are_the_same_losses():
    from experiments.speed import losses

    for name, entry in losses.table(torch.device("cpu")).items():
        if name == "DINO":  # its peer is built for 65,536 columns
            continue
        apart = losses.difference(entry, losses.inputs((entry.shape[0], 16, 32), torch.device("cpu")))
        assert max(apart.values()) < losses.TOLERANCE, (name, apart)


def test_the_suite_refuses_a_benchmark_that_it_lacks():
    ended = command("experiments.speed", "--only", "step,speed")
    assert ended.returncode == 2
    assert "--only speed: there are augment, step" in ended.stderr


@pytest.mark.long
def test_the_suite_redraws_from_what_is_kept(tmp_path):
    keep(tmp_path, "step-cpu", {"a": case(1, 2)})
    ended = command("experiments.speed", "--table", "--results", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "table.md").exists()
    assert (tmp_path / "chart.png").exists()
