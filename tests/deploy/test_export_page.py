"""The page of an export: which version to use, every figure, what reads the files, and what is missing and why."""
from pathlib import Path

import pytest
from legible import check_on_a_desk, check_on_a_phone

from core import cli
from core.measured import Configured
from deploy.export import TOOL
from deploy.export_report import PRINTED, ExportResult, ModelCost, VersionRow

MADE = {
    "words": {}, "command": "python -m deploy.export --encoder x", "seeds": [0], "code": "abc",
    "hardware": {"cpu": "a CPU", "cores": 2, "gpu": None, "threads": 1}, "versions": {"torch": "2.11", "onnxruntime": "1.22"},
}  # fmt: skip
HOW = {"resize": "shortest side", "size": 8, "crop": "center", "interpolation": "bilinear", "mean": [0.3], "std": [0.3]}
INPUT = {"channels": 1, "preprocess": False, "preprocessing": HOW}


def exported(p95: float = 0.5) -> ExportResult:
    rows = {"torch": VersionRow(90.0, 1.0, 1.2, 800, 1.5, None),
            "onnxruntime": VersionRow(90.0, 0.4, p95, 1_234, 1.4, "model.onnx"),
            "INT8 static": VersionRow(80.0, 0.1, 0.1, 9_000, 0.4, "model.int8.onnx"),
            "against: torch": VersionRow(91.0, 2.0, 2.1, 400, 3.0, None, True),
            "against: onnxruntime": VersionRow(91.0, 0.8, 0.9, 700, 3.0, None, True)}  # fmt: skip
    reads = {"ir": 10, "opsets": {"ai.onnx": 18}, "onnxruntime": "1.17"}
    return ExportResult(
        folder=Path("out"), model=ModelCost("runs/x/small|1.safetensors", 0.5, 7.5), reference=ModelCost("big", 1.0, 15.0),
        data="digits", output_names=("features",), metadata=INPUT, rows=rows, batch=64, threads=1, most_lost=1.0, deviations={},
        refused={"TensorRT": "not installed"}, standalone={"images": 359, "files": {"onnxruntime": {"off": 1e-6}}},
        onnx={"onnxruntime": reads}, provenance=MADE,
        configured=Configured(TOOL, cli.from_arguments(TOOL, ["--encoder=x.safetensors", "--data=digits"])),
    )  # fmt: skip


def test_it_names_the_version_and_shows_every_figure():
    page = exported().page
    assert page.verdict[0] == "Use onnxruntime (model.onnx): 2.5× torch's speed at one image, +0.00 points of accuracy."
    assert page.verdict[1].startswith("Against big: 50% of its multiply-adds, 50% of its parameters, 2.00× its speed")
    assert [(tile.value, tile.lines) for tile in page.tiles] == [
        ("0.4", ["torch 1"]), ("90.00", ["torch 90.00"]), ("1.4", ["torch 1.5"])]
    text = page.text(PRINTED)
    for part in ("| onnxruntime | 90.00 | 0.40 | 0.50 | 1,234 | 1.40 |", "| onnxruntime | IR version 10", "for 359 test images",
                 "| TensorRT | not installed |", "# small|1.safetensors on digits", "Input: upright grey images"):  # fmt: skip
        assert part in text
    assert {"card.svg", "report.html", "report.md"} == set(page.files)


def test_without_steady_times_the_figures_are_torch_s():
    page = exported(p95=9.0).page
    assert page.verdict[0].startswith("No version is recommended")
    assert page.tiles[0].title == "latency, torch"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(browser, tmp_path, scheme):
    file = tmp_path / "report.html"
    file.write_text(exported().page.html)
    check_on_a_phone(browser, file, scheme)
    check_on_a_desk(browser, file)
