"""One run of each tool leaves report.md and report.html of one design: seen in a browser."""
from pathlib import Path

import pytest
from commands import run
from legible import check_on_a_desk, check_on_a_phone

TOOLS = ("ssl.pretrain", "distill.train", "deploy.export", "deploy.prune", "deploy.latency")
SHAPE = ["--data=digits", "--batch_size=64", "--steps=6", "--trackers=none"]
CONTENT = {  # headings of each page
    "ssl.pretrain": ["Scores", "Curves", "Views", "Nearest neighbors", "Map of the features", "Spectrum", "What next"],
    "distill.train": ["Scores", "Curves", "Views", "Nearest neighbors", "Map of the features", "Spectrum", "What next"],
    "deploy.export": ["Versions", "Files", "Not exported"],
    "deploy.prune": ["Costs", "What next"],
    "deploy.latency": ["Latency"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    encoder = root / "ssl.pretrain" / "encoder.safetensors"
    arguments = {
        "ssl.pretrain": [*SHAPE, "--encoder=test_resnet", "--method=simclr", "--method.hidden=16", "--method.dim=8",
                         "--evals=2"],
        "distill.train": [*SHAPE, f"--teacher={encoder}", "--student=test_resnet", "--method=seed", "--method.queue_size=64",
                          "--cache=none"],
        "deploy.export": [f"--encoder={encoder}", "--data=digits", "--int8=none", "--batch=4"],
        "deploy.prune": [f"--encoder={encoder}"],
        "deploy.latency": [f"--encoders={encoder}", "--frameworks=torch", "--batches=1,2", "--threads=1"],
    }  # fmt: skip
    for tool in TOOLS:
        ended = run(*arguments[tool], f"--out={root / tool}", logs=root / "logs", module=tool)
        assert ended.code == 0, ended.err
        assert "note: no report" not in ended.err
        assert "note: the report is without" not in ended.err
    return root


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_leaves_one_page(browser, folders, tool):
    page = folders / tool / "report.html"
    for scheme in ("light", "dark"):
        check_on_a_phone(browser, page, scheme)
    check_on_a_desk(browser, page, least_links=0 if tool == "deploy.latency" else 3)
    headings = browser.execute_script("return [...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert headings == [*CONTENT[tool], "How it was measured"]
    markdown = (folders / tool / ("card.md" if tool == "deploy.export" else "report.md")).read_text()
    assert [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")] == headings
    settings = browser.execute_script("return [...document.querySelectorAll('details tr')].map(r => r.textContent)")
    assert any("given" in row for row in settings)
