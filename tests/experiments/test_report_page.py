"""`python -m experiments.report`: one page that needs nothing else, seen in a browser."""
import json
from pathlib import Path

import pytest

from experiments import report

TABLE = {
    "table": "sums", "title": "Sums & <products>", "about": "Of two numbers", "seeds": [0, 1], "command": "python -m x",
    "code": ["abc"],
    "columns": {"a": {"title": "A, %", "digits": 1, "best": "high"}},
    "rows": [
        {"name": "one", "note": "", "values": {"a": [70.0, 71.0]}, "mean": {"a": 70.5}, "std": {"a": 0.7},
         "published": {"a": [71.2, "source"]}},
        {"name": "<script>alert(1)</script>", "note": "", "values": {"a": [60.0, 61.0]}, "mean": {"a": 60.5}, "std": {"a": 0.7},
         "published": {}},
    ],
    "cells": {"x": {"seconds": 7200}}, "hardware": {"cpu": "a CPU", "cores": 2, "gpu": None}, "versions": {"torch": "2.11"},
    "figures": {"search": {}, "missing": {}},
}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    from PIL import Image

    root = tmp_path / "runs"
    (root / "tables" / "sums").mkdir(parents=True)
    (root / "tables" / "sums" / "table.json").write_text(json.dumps(TABLE))
    Image.new("RGB", (40, 20), "red").save(root / "tables" / "sums" / "search.png")
    (root / "broken").mkdir()
    (root / "broken" / "metrics.jsonl").write_text("not json")
    for seed in range(3):
        run = root / f"simclr-{seed}"
        run.mkdir()
        (run / "metrics.jsonl").write_text(json.dumps({"step": 100, "epoch": 2.5, "loss": 3.25}) + "\n")
        (run / "test.json").write_text(json.dumps({"pretrained": {"knn": 87.1 + seed, "linear": 88.0}}))
    monkeypatch.setattr(report, "MEASURED", tmp_path / "none")
    return root


def test_the_page_has_tables_figures_and_runs_and_needs_nothing_else(runs):
    assert report.main([f"--runs={runs}"]) == 0
    text = (runs / "report.html").read_text()
    assert "http" not in text.replace('charset="utf-8"', "")
    assert "70.5 ± 0.7" in text
    assert "data:image/png;base64," in text
    assert "2.0 hours of processes" in text
    assert "<script>alert" not in text
    assert "1 tables and 3 pretraining runs" in text


def test_the_kept_tables_are_on_it_with_their_pictures(tmp_path):
    kept = {path.stem for path in report.MEASURED.glob("*.json")}
    assert {table.result.table for table in report.tables([report.MEASURED])} == kept >= {"fashion_mnist_story"}
    text = report.page(tmp_path, tmp_path / "report.html")
    assert text.count("<h2>") == len(kept)
    assert text.count("data:image/") == len(list(report.MEASURED.glob("*.png")))


def test_a_browser_shows_it(runs, browser):
    from selenium.webdriver.common.by import By

    report.main([f"--runs={runs}"])
    browser.get((runs / "report.html").as_uri())
    titles = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert titles == ["Sums & <products>", "Runs"]
    lines = browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    rows = [[cell.text for cell in line.find_elements(By.TAG_NAME, "td")] for line in lines]
    assert ["one", "70.5 ± 0.7", "71.2"] in rows
    assert ["<script>alert(1)</script>", "60.5 ± 0.7", ""] in rows
    assert any(row[0] == "simclr-2" and row[4:] == ["89.1", "88.0"] for row in rows)
    (image,) = browser.find_elements(By.TAG_NAME, "img")
    assert image.get_property("naturalWidth") == 40
    assert browser.find_element(By.CSS_SELECTOR, "tr.own").text.startswith("one")


def test_a_run_s_report_is_linked_from_wherever_the_page_is(runs, tmp_path):
    (runs / "simclr-1" / "report.html").write_text("a page")
    assert report.main([f"--runs={runs}", f"--out={tmp_path / 'pages.html'}"]) == 0
    text = (tmp_path / "pages.html").read_text()
    assert '<a href="runs/simclr-1/report.html">simclr-1</a>' in text
    assert text.count("/report.html") == 1


def test_a_table_measured_later_replaces_the_kept_one(runs, tmp_path, monkeypatch):
    import os

    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "sums.json").write_text(json.dumps(TABLE | {"title": "older"}))
    os.utime(kept / "sums.json", (1, 1))
    found = report.tables([kept, runs / "tables"])
    assert [table.result.title for table in found] == ["Sums & <products>"]


def test_no_folder_of_runs_is_one_line(tmp_path, capsys):
    assert report.main([f"--runs={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err.strip().endswith("no such folder")
