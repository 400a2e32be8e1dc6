"""README and the documentation site: length, links, structure, and a build without a warning."""
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from commands import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and MyST make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = unquote(link).partition("#")
        if "://" in path or path.startswith("generated/"):  # of the built site alone
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text()
    listed = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S) for line in block.splitlines()}
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed


def test_the_recipes_page_has_every_recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    page = generate.recipes_page()
    paths = [path for folder in generate.FOLDERS for path in (ROOT / folder).rglob("*.yaml")]
    assert page.count("\n| `") == len(paths) > 80
    assert "| `byol` | BYOL (Grill et al. 2020, arXiv 2006.07733) on CIFAR-10: ResNet-18 with a 3×3 stem" in page
    row = next(line for line in page.splitlines() if "on CIFAR-10" in line and line.startswith("| `byol`"))
    assert "92.58 % top-1" in row
    assert row.endswith("| not measured |")


def test_the_settings_page_has_every_setting(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    page = generate.settings_page()
    rows = "| `method` | `simclr` |", "| `trials` |", "| `mobile` | `false` |", "| `teacher_weights` | `null` |"
    assert [row for row in rows if row not in page] == []


@pytest.mark.long
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="needs the docs group: uv sync --group docs")
    pytest.importorskip("myst_parser", reason="needs the docs group: uv sync --group docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    pretrain = (tmp_path / "reference.html").read_text()
    assert "nolabel.pretrain" in pretrain
    assert "PretrainResult" in pretrain
    assert (tmp_path / "generated" / "recipes.html").exists()


def test_the_readme_counts_the_methods_that_there_are():
    text = (ROOT / "README.md").read_text()
    for package, sentence in (("ssl", r"(\d+) methods, from SimCLR"), ("distill", r"by (\d+) methods, with labels")):
        there = len(list((ROOT / package / "method").glob("*.yaml")))
        assert int(re.search(sentence, text)[1]) == there
