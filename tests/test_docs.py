"""README and guides: every command is understood, and run at a small size unless it is marked as needing what is not here."""
import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from PIL import Image

from core import cli

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"\s+# needs a (GPU|cluster|download)$")
PHOTO = 16  # pixels a side of the test's photographs


@dataclass(frozen=True)
class Said:
    """A command of a page."""

    page: str
    text: str
    marked: bool

    @property
    def module(self) -> str | None:
        found = re.search(r" -m ([\w.]+)", self.text.replace("torchrun", "", 1))
        return found[1] if found else None

    @property
    def words(self) -> list[str]:
        return shlex.split(re.split(r"\|\|", self.text)[0].partition(f"-m {self.module}")[2])


def fenced(page: Path) -> list[Said]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = [line.rstrip() for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
    return [Said(page.name, re.sub(r"\s+# .*$", "", line), bool(MARK.search(line))) for line in lines]


def inline(page: Path) -> list[Said]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return [Said(page.name, " ".join(said.split()), True) for said in re.findall(r"`(uv run [^`]*?-m [^`]+)`", text)]


ALL = [said for page in PAGES for said in (*fenced(page), *inline(page))]
SAID = [said for page in PAGES if page.name != "adding.md" for said in fenced(page) if not said.marked]
TO_RUN = list({said.text: said for said in reversed(SAID)}.values())[::-1]  # each once, as the first page has it


def test_commands_are_found():
    assert len(ALL) > 50
    assert {said.module for said in ALL} >= {"ssl.pretrain", "nas.search", "deploy.export", "experiments.reproduce", "pytest"}


@pytest.mark.parametrize("said", [s for s in ALL if s.module not in (None, "pytest")], ids=lambda s: f"{s.page}: {s.text[:90]}")
def test_a_command_is_understood(said, monkeypatch, capsys):
    """Its words, by the tool's own configuration or parser."""
    monkeypatch.chdir(ROOT)
    if said.page == "adding.md" and {"align_uniform", "my_net"} & set(said.words):
        return  # there once the page's files are: tests/experiments/test_newcomer.py
    module = importlib.import_module(said.module if said.module != "experiments.speed" else "experiments.speed.__main__")
    if hasattr(module, "TOOL"):
        words, flags = cli.parse(said.words, module.TOOL.settings)
        words, _ = cli.with_recipe(module.TOOL, [w for w in words if not w.startswith("hydra")])
        cli.check_choices(module.TOOL, words)
        assert "multirun" in flags or cli.compose(module.TOOL, words)
        return
    monkeypatch.setattr(sys, "argv", [said.module, "--help"])
    with contextlib.suppress(SystemExit):
        assert not module.main()
    known = capsys.readouterr().out
    for word in said.words:
        if word.startswith("--"):
            assert re.search(rf"{word.split('=')[0]}\b", known), f"{said.module} knows no {word}"


# ------------------------------------------------------------------------------------------------------------- running them

TRAINED = {"batch_size": "16", "steps": "2", "checks": "1", "log_every": "1"}
SMALL = {  # module → what is said in place of the page's
    "ssl.pretrain": TRAINED | {"encoder": "test_resnet", "method.hidden": "16", "method.dim": "8"},
    "vision.augment": {},
    "vision.corruptions": {},
    "linear_eval.evaluate": {"parts": "[knn,linear]"},
    "linear_eval.dense": {"data.images": "20", "protocol.knn.bank": "200", "protocol.linear.patches": "200"},
    "linear_eval.robustness": {"images": "40", "corruptions": "[contrast]"},
    "linear_eval.segment": {"data.images": "20", "batch_size": "16", "steps": "2", "evals": "1"},
    "linear_eval.finetune": TRAINED,
    "distill.train": TRAINED,
    "nas.search": {"trials": "2", "epochs": "1", "batch_size": "128", "parallel": "1"},
    "nas.profile": {"networks": "8", "image_size": "8"},
    "nas.export": {"int8": "dynamic", "calibration": "16"},
    "deploy.export": {"int8": "dynamic", "calibration": "16"},
    # Compiling takes minutes, and so do eight threads on two cores.
    "deploy.latency": {"image_size": "32", "batches": "1,8", "threads": "1,2", "frameworks": "torch,onnxruntime"},
    "deploy.prune": {},
}
DATA = {"fashion_mnist": "digits", "cifar10": "digits", "mnist": "digits"}


def small(said: Said, number: int) -> list[str]:
    """The command as it is run here: the page's words, in a size that takes seconds."""
    if said.module == "experiments.reproduce":
        return ["-m", said.module, *said.words, "--smoke"]
    if said.module == "paper_figures.make":
        return ["-m", said.module, *said.words[:-1], f"{said.words[-1]}-smoke"]
    if said.module not in SMALL:
        return ["-m", said.module, *said.words]
    text = re.sub(r"--([\w.]+)[ =](?!-)", r"--\1=", shlex.join(said.words))
    words = dict(word[2:].split("=", 1) if "=" in word else (word[2:], None) for word in shlex.split(text))
    theirs = dict(words)
    words |= SMALL[said.module]
    words["data"] = DATA.get(words.get("data"), words.get("data", "digits"))
    if said.module in ("deploy.latency", "deploy.prune", "nas.profile"):
        del words["data"]
    if words.get("data") in ("folder", "shards") and said.module != "deploy.export":
        words["image_size"] = str(PHOTO)
    if said.module == "ssl.pretrain" and words.get("method") == "mae":
        words = {name: value for name, value in words.items() if name not in ("method.hidden", "method.dim")}
        words["encoder"] = theirs["encoder"]
    if said.module == "ssl.pretrain" and "adapt" in words:  # it goes on from a file
        words["encoder"] = theirs["encoder"]
    if said.module == "ssl.pretrain" and "from" in words:  # it brings encoder and heads
        words = {name: value for name, value in words.items() if name not in ("encoder", "method.hidden", "method.dim")}
    if said.module == "ssl.pretrain" and "chunk" in words:
        words["chunk"] = "8"
    if said.module == "ssl.pretrain" and theirs.get("out"):
        words["encoder"] = "tiny"  # later commands go on from it
    if said.module == "linear_eval.finetune" and words["encoder"] == "lenet5":
        words["image_size"] = "28"
    if said.module == "distill.train":
        words.pop("epochs", None)
        if words["method"] == "seed":
            words["method.queue_size"] = "64"
        if not words.get("student", "").startswith("runs"):
            words["student"] = ",".join(["tiny", "test_resnet"][: words["student"].count(",") + 1])
    if said.module == "nas.search":
        words["study"] += f"-{number}" if "tune" in words else ""
    return ["-m", said.module, *(f"--{name}" if value is None else f"--{name}={value}" for name, value in words.items())]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder in which the pages' files are there: images, an encoder, a classifier."""
    root = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for folder in ("photos/a", "photos/b", "labeled/cat", "labeled/dog"):
        (root / folder).mkdir(parents=True)
        for i in range(40):
            image = Image.fromarray(rng.integers(0, 256, (PHOTO, PHOTO, 3), dtype=np.uint8))
            image.save(root / folder / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / "shirt.png")
    label_files(root)
    do(root, ["-m", "ssl.pretrain", "--data=digits", "--encoder=tiny", "--steps=4", "--evals=1", "--out=runs/x"])
    words = ["--encoder=runs/x/encoder.safetensors", "--data=digits", "--steps=4", "--evals=1", "--out=runs/y"]
    do(root, ["-m", "linear_eval.finetune", *words])
    return root


def label_files(root: Path) -> None:
    """Images labelled by files: scans/ by a table with patients, scenes/ by COCO's JSON with several classes an image."""
    names = [f"{i:02d}.png" for i in range(40)]
    for folder in ("scans", "scenes"):
        (root / folder).mkdir()
        for i, name in enumerate(names):
            (root / folder / name).write_bytes((root / "photos" / "ab"[i % 2] / f"{i}.png").read_bytes())
    rows = [f"{name},{'ab'[i % 2]},p{i // 4}" for i, name in enumerate(names)]
    (root / "scans" / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    pairs = [(i, kind) for i in range(len(names)) for kind in ((1,), (1, 2), (2,), (2, 3))[i % 4]]
    (root / "scenes" / "instances.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": i, "category_id": kind} for n, (i, kind) in enumerate(pairs)],
        "categories": [{"id": k, "name": name} for k, name in ((1, "cat"), (2, "dog"), (3, "bird"))],
    }))


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(root), "XDG_CACHE_HOME": str(root / "cache")}


def do(root: Path, command: list[str]) -> str:
    options = {"cwd": root, "env": environment(root), "capture_output": True, "text": True}
    ended = subprocess.run([sys.executable, *command], timeout=900, **options)
    assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stdout[-1000:]}\n{ended.stderr[-2000:]}"
    return ended.stdout


@pytest.mark.long
@pytest.mark.parametrize("number", range(len(TO_RUN)), ids=lambda n: f"{TO_RUN[n].page}: {TO_RUN[n].text[:90]}")
def test_a_command_runs(number, place):
    """In the pages' order: some read what others left."""
    said = TO_RUN[number]
    if said.module == "pytest" or said.text.startswith("curl"):
        return  # this; and asked of the service below
    if said.module == "deploy.serve":
        served(place, said)
        return
    do(place, small(said, number))


def served(place: Path, said: Said) -> None:
    command = [sys.executable, "-m", said.module, *said.words, "--port", "8765"]
    service = subprocess.Popen(command, cwd=place, env=environment(place), stderr=subprocess.PIPE, text=True)
    path = "predict" if "--gallery" in said.words else "classify"
    try:
        for _ in range(600):
            assert service.poll() is None, service.stderr.read()
            try:
                request = urllib.request.Request(f"http://127.0.0.1:8765/{path}", (place / "shirt.png").read_bytes())
                answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
                break
            except OSError:
                time.sleep(0.1)
        assert answer
    finally:
        service.terminate()
        service.wait()
