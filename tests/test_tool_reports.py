"""One run of each tool leaves report.md and report.html of one design: seen in a browser."""
from pathlib import Path

import pytest
import torch
from commands import start
from legible import check_on_a_desk, check_on_a_phone

from vision import artifact, datasets, encoders
from vision.augment import Augmentation

SHAPE = ["--data=digits", "--batch_size=64", "--steps=6", "--trackers=none"]
TRAINED = ["Scores", "Curves", "Views", "Nearest neighbors", "Map of the features", "Spectrum", "What next"]
TOOLS = {  # tool → its settings, and the headings of its page
    "ssl.pretrain": ([*SHAPE, "--encoder=test_resnet", "--method=simclr", "--method.hidden=16", "--evals=2"], TRAINED),
    "distill.train": ([*SHAPE, "--teacher={}", "--student=test_resnet", "--method=seed", "--method.queue_size=64",
                       "--cache=none"], TRAINED),
    "deploy.export": (["--encoder={}", "--data=digits", "--int8=none", "--batch=4"], ["Versions", "Files", "Not exported"]),
    "deploy.prune": (["--encoder={}"], ["Costs", "What next"]),
    "deploy.latency": (["--encoders={}", "--frameworks=torch", "--batches=1,2", "--threads=1"], ["Latency"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    file, data = tmp_path_factory.mktemp("encoder") / "encoder.safetensors", datasets.load("digits")
    torch.manual_seed(0)
    file.write_bytes(artifact.dumps(encoders.create("test_resnet", 1, 8).eval(), Augmentation(8, data.mean, data.std), {}))
    return file


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_leaves_one_page(browser, encoder, tmp_path, tool):
    settings, content = TOOLS[tool]
    settings = [text.format(encoder) for text in settings]
    ended = start(*settings, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs", module=tool).wait(500)
    assert ended.code == 0, ended.err
    assert "note: no report" not in ended.err
    assert "note: the report is without" not in ended.err
    page = tmp_path / "run" / "report.html"
    for scheme in ("light", "dark"):
        check_on_a_phone(browser, page, scheme)
    check_on_a_desk(browser, page, least_links=0 if tool == "deploy.latency" else 3)
    headings = browser.execute_script("return [...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert headings == [*content, "How it was measured"]
    markdown = (tmp_path / "run" / ("card.md" if tool == "deploy.export" else "report.md")).read_text()
    assert [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")] == headings
    settings = browser.execute_script("return [...document.querySelectorAll('details tr')].map(r => r.textContent)")
    assert any("given" in row for row in settings)
