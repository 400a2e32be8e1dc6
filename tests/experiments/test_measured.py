"""Every kept figure has its provenance, and docs/measured.md lists it."""
import json
import re

import pytest
from commands import ROOT

from experiments import measured
from experiments.provenance import of_file

PAGES = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("path", measured.files(), ids=lambda path: path.parent.name + "/" + path.name)
def test_a_kept_file_names_command_code_hardware_and_seeds(path):
    for record in of_file(json.loads(path.read_text())):
        assert record.command.startswith("python -m ")
        assert all(record.code)
        assert record.code
        assert record.hardware["cpu"]
        assert record.versions["python"]
        seedless = "speed" in path.parts or path.parent.name == "published"  # times; classical classifiers
        assert seedless or record.seeds is not None


def test_the_page_lists_the_files_provenance():
    assert measured.PAGE.read_text() == measured.page(), "uv run python -m experiments.measured writes it"


def test_files_that_the_pages_name_exist():
    named = set(re.findall(r"experiments/[\w./*-]+\.(?:json|png|md)", PAGES))
    assert len(named) > 30
    for name in named:
        assert list(ROOT.glob(name)), name
