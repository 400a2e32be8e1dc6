"""Every figure has a birth certificate, and the page of them says what the files say."""
import json
import re

import pytest
from commands import ROOT

from experiments import measured

PAGES = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("path", measured.files(), ids=lambda path: path.parent.name + "/" + path.name)
def test_a_kept_file_names_command_code_hardware_and_seeds(path):
    for found in measured.certificates(json.loads(path.read_text())):
        assert found["command"].removeprefix("uv run ").startswith("python -m ")
        assert found["code"]
        assert found["hardware"]["cpu"]
        assert found["versions"]["python"]
        seedless = "speed" in path.parts or path.parent.name == "published"  # times; classical fits
        assert seedless or "seeds" in found or "seed" in found


def test_the_page_is_what_the_files_say():
    assert measured.PAGE.read_text() == measured.page(), "uv run python -m experiments.measured writes it anew"


def test_files_that_the_pages_name_are_there():
    named = set(re.findall(r"experiments/[\w./*-]+\.(?:json|png|md)", PAGES))
    assert len(named) > 30
    for name in named:
        assert list(ROOT.glob(name)), name
