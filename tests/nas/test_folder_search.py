"""A search on a folder has the plan's image size, batch, rate and views; what is given stays, and so does an older study."""
import re

import numpy as np
import pytest
from PIL import Image

from core import cli
from nas import folder_plan
from nas.study import TOOL, open_store
from ssl.plan import FROM_SCRATCH
from vision import reachable


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """60 images of 50 pixels in two classes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(60):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def search(root, tmp_path, monkeypatch):
    monkeypatch.setattr(reachable, "best", lambda gpu: reachable.Reachable("resnet18", "", 45.0))

    def settings(*words: str):
        given = ["--data=folder", f"--data.root={root}", "--device=cpu", f"--storage={tmp_path / 'journal.log'}", *words]
        return cli.compose(TOOL, cli.parse(given, TOOL.settings)[0])

    return settings


def test_a_new_study_has_the_plans_settings_and_prints_them(search, capsys):
    found = folder_plan.planned(search())
    flat, before = cli.flat(found), cli.flat(search())
    assert (flat["image_size"], flat["batch_size"]) == (48, 32)
    assert all(flat[name] == value for name, value in FROM_SCRATCH.items())
    assert {name for name in flat if flat[name] != before[name]} <= set(folder_plan.TAKEN), "nor encoder, weights or epochs"
    first, second = capsys.readouterr().err.splitlines()
    assert re.match(r"plan: \d+ pictures of about 50 px: trials begin with random weights; published ones of resnet18", first)
    assert "image_size=48, batch_size=32, optim.name=adamw" in second
    assert "--plan false" in second


def test_what_is_given_stays(search):
    flat = cli.flat(folder_plan.planned(search("--image_size=32", "--optim.lr=0.1")))
    assert (flat["image_size"], flat["optim.lr"], flat["batch_size"]) == (32, 0.1, 32)
    off = search("--plan=false")
    assert folder_plan.planned(off) is off


def test_a_study_keeps_what_it_was_begun_with(search):
    old = search("--study=old")
    open_store(old)  # as before there were such plans
    assert cli.flat(folder_plan.planned(old)) == cli.flat(old)
    new = folder_plan.planned(search("--study=new", "--image_size=40"))
    open_store(new)
    again = folder_plan.planned(search("--study=new", "--image_size=40"))
    assert cli.flat(again) == cli.flat(new)
    open_store(again)
