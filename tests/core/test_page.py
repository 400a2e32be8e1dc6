"""core/page.py: one source of sections as Markdown, HTML and text; pages stay small; a report fails no finished run."""
import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import cli, measured
from core.errors import DiskFull
from core.page import Chart, Code, Link, Page, Picture, Python, Table, address, optional, write_report
from ssl.pretrain import TOOL

PAGE = Page(
    "a & b", "of <two>", [], [
        ("Scores", [Table(["x", "%"], [[Link("run | 1", "a%20b/report.html"), "1.0"]], slice(1, None)), "p < 0.05"]),
        ("Next", [Code("uv run x"), Python("import timm"), Chart("c.svg", "<svg></svg>", "a chart")]),
    ], ["It paid *well*."],
)  # fmt: skip


def noise(side: int, seed: int = 0) -> bytes:
    """A picture that no format makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_one_source_gives_markdown_html_and_text():
    assert "[run \\| 1](a%20b/report.html)" in PAGE.markdown
    assert "It paid \\*well\\*." in PAGE.markdown
    assert "```python\nimport timm\n```" in PAGE.markdown
    assert '<a href="a%20b/report.html">run | 1</a>' in PAGE.html
    assert "of &lt;two&gt;" in PAGE.html
    table = "| x | % |\n|---|---|\n| run | 1 | 1.0 |"
    assert PAGE.text(["Scores"]) == f"# a & b\n\nof <two>.\n\nIt paid *well*.\n\n{table}\n\np < 0.05"
    assert set(PAGE.files) == {"report.md", "report.html", "c.svg"}


def test_a_picture_too_large_becomes_smaller_and_keeps_its_shape():
    png = noise(400)
    assert address(png, len(png)) == f"data:image/png;base64,{base64.b64encode(png).decode()}"
    kind, _, content = address(png, 40_000).partition(";base64,")
    data = base64.b64decode(content)
    with Image.open(io.BytesIO(data)) as image:
        assert (kind, image.format) == ("data:image/webp", "WEBP")
        assert image.width == pytest.approx(2 * image.height, abs=1)
    assert 20_000 < len(data) <= 40_000


def test_a_page_of_many_pictures_is_below_its_size():
    pictures = [Picture(f"{i}.png", noise(150, i), "noise") for i in range(12)]
    assert sum(len(one.png) for one in pictures) > 1.5e6
    assert len(Page("p", "many", [], [("Pictures", pictures)]).html) < 1.5e6


def test_a_report_that_fails_is_a_note_and_a_full_disk_an_error(capsys):
    def broken():
        raise ZeroDivisionError("of\nnothing")

    written = []
    assert write_report(lambda name, content: written.append(name), broken) is None
    assert optional("a map", broken) == []
    assert written == []
    first, second = capsys.readouterr().err.splitlines()
    assert first == "note: no report (ZeroDivisionError: of nothing)"
    assert second == "note: the report is without a map (ZeroDivisionError: of nothing)"

    def full(name, content):
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        write_report(full, lambda: PAGE)


def test_every_setting_names_where_it_comes_from(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: byol\nbatch_size: 64\n")
    settings = cli.from_arguments(TOOL, [f"--recipe={recipe}", "--optim.lr=0.3"])
    table = measured.Configured(TOOL, settings).table
    found = {name: (value, source) for name, value, source in table.rows}
    assert found["method"] == ("byol", f"{recipe}, line 1")
    assert found["batch_size"] == ("64", f"{recipe}, line 2")
    assert found["optim.lr"] == ("0.3", "given")
    assert found["optim.name"] == ("lars", "set by method=byol")
    assert found["method.momentum"][1] == "the default of method=byol"
    assert found["evals"] == ("10", "the default")
