"""docs/adding.md as it stands: the files it shows make a method with its row in a table, an encoder, and a space."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

TABLE = ["experiments.reproduce", "--table=fashion_mnist_family", "--smoke"]
PAGE = (ROOT / "docs" / "adding.md").read_text()
SMALL = ["--data=digits", "--steps=2", "--evals=1", "--batch_size=16"]


FILES = dict(re.findall(r"`([\w./]+\.(?:py|yaml))`[^`]*?\n\n```(?:python|yaml)\n(.*?)^```", PAGE, re.M | re.S))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository in which a row of the table is done."""
    root = tmp_path_factory.mktemp("newcomer") / "nolabel"
    left_out = shutil.ignore_patterns(".*", "runs", "__pycache__", "tests", "node_modules")
    shutil.copytree(ROOT, root, ignore=left_out)
    do(root, *TABLE, "--only", "SimCLR")
    return root


def put(root: Path, *names: str) -> None:
    """The page's files; a line of a table behind its last row."""
    for name in names:
        path, text = root / name, FILES[name]
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            last = max(i for i, line in enumerate(lines) if line.startswith("  - {name:"))
            text = "".join([*lines[: last + 1], text, *lines[last + 1 :]])
        path.write_text(text)


def do(root: Path, *command: str) -> str:
    ended = subprocess.run([sys.executable, "-m", *command], cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
                           capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def test_the_pages_files_are_these():
    assert list(FILES) == [
        "ssl/method/align_uniform.py", "ssl/method/align_uniform.yaml", "experiments/tables/fashion_mnist_family.yaml",
        "vision/my_net.py", "my_space.py",
    ]


@pytest.mark.long
def test_a_method_has_its_row_by_three_lines_of_three_files(checkout):
    method = "ssl/method/align_uniform.py", "ssl/method/align_uniform.yaml"
    put(checkout, *method, "experiments/tables/fashion_mnist_family.yaml")
    rows = "--only", "SimCLR", "Align + uniform"
    assert "2 cells, 1 done" in do(checkout, *TABLE, *rows, "--dry_run")  # the other row's cell is what it was
    do(checkout, *TABLE, *rows)
    table = json.loads((checkout / "runs/tables/fashion_mnist_family-smoke-some/table.json").read_text())
    rows = {row["name"]: row["mean"] for row in table["rows"]}
    assert set(rows) == {"SimCLR", "Align + uniform"}
    assert all(0 < rows[name][kind] <= 100 for name in rows for kind in ("logistic", "knn"))
    assert "align_uniform" in do(checkout, "ssl.pretrain", "--help")


@pytest.mark.long
def test_an_encoder_is_pretrained_and_its_file_is_built_again(checkout):
    put(checkout, "vision/my_net.py")
    encoders = checkout / "vision" / "encoders.py"
    before, after = "from vision import cifar, classic, ", "from vision import cifar, classic, my_net, "
    assert before in encoders.read_text()
    encoders.write_text(encoders.read_text().replace(before, after))
    do(checkout, "ssl.pretrain", *SMALL, "--encoder=my_net", "--out=runs/mine")
    script = "from vision import artifact; print(type(artifact.load('runs/mine/encoder.safetensors')[0]).__name__)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)},
                           capture_output=True, text=True)
    assert ended.stdout.strip() == "MyNet", ended.stderr


@pytest.mark.long
def test_a_space_is_searched(checkout):
    put(checkout, "my_space.py")
    words = ["--data=digits", "--epochs=0.1", "--evals=1", "--trials=1", "--rungs=1", "--parallel=1"]
    do(checkout, "nas.search", "--study=mine", "--space=my_space.py:space", *words)
    trials = json.loads((checkout / "runs/nas/mine/results.json").read_text())["trials"]
    assert trials[0]["encoder"]["arguments"]["stem_width"] == 8
