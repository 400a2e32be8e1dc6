"""Every measured figure in a table of README and docs comes from a kept file that its section names."""
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from commands import ROOT

PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "measured.md")]
KEPT = re.compile(r"experiments/[\w./*-]+\.json")
MEASURED = re.compile(r"kNN|, %|images/s|\bms\b|accuracy|published|pretrained|nolabel", re.IGNORECASE)  # in a table's head
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.])")


def tables(page: Path) -> list[tuple[list[str], str]]:
    """Tables of measured figures, as lines, each with the text of its section."""
    found = []
    for section in re.split(r"^#+ ", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M):
        for table in re.findall(r"(?:^\|.*\n)+", section, re.M):
            lines = table.splitlines()
            if MEASURED.search(lines[0]) and any(re.search(r"\d\.\d", line) for line in lines[2:]):
                found.append((lines, section))
    return found


def figures(lines: list[str]) -> list[str]:
    """The figures in the cells behind the first."""
    cells = [cell for line in lines[2:] for cell in line.strip("|").split("|")[1:]]
    return [number for cell in cells for number in NUMBER.findall(re.sub(r"\(.*?arXiv.*?\)|`[^`]*`", "", cell))]


def numbers(content) -> set[float]:
    """All numbers in a file; of each list of them mean, deviation, and half of an interval; of rates the times too."""
    found = set()
    if isinstance(content, dict):
        found |= set().union(*map(numbers, content.values())) if content else set()
        found |= {float(figure.replace(",", "")) for figure in NUMBER.findall(str(content.get("note", "")))}
        if str(content.get("unit", "")).endswith("/s"):
            found |= {1 / value for value in found if value}
    elif isinstance(content, list):
        found |= set().union(*map(numbers, content)) if content else set()
        if len(content) > 1 and all(isinstance(v, int | float) for v in content):
            found |= {f(content) for f in (statistics.fmean, statistics.stdev, statistics.pstdev, statistics.median)}
            found.add((max(content) - min(content)) / 2)
    elif isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content):
        found.add(float(content))
    return found


def kept(section: str) -> set[float]:
    paths = [path for name in KEPT.findall(section) for path in ROOT.glob(name)]
    return set().union(*(numbers(json.loads(path.read_text())) for path in paths)) if paths else set()


def stands_in(figure: str, pool: set[float]) -> bool:
    """Is it one of the numbers, rounded to its digits, as a share, in thousands or millions, or per thousand?"""
    digits, value = len(figure.partition(".")[2]), float(figure.replace(",", ""))
    half = 0.5 * 10**-digits * 1.001
    return any(abs(v * scale - value) <= half for v in pool for scale in (1, 100, 1e-3, 1e-6, 1e3))


@pytest.mark.parametrize("page", [page for page in PAGES if tables(page)], ids=lambda page: page.name)
def test_figures_of_tables_are_kept(page):
    for lines, section in tables(page):
        pool = kept(section)
        assert pool, f"{page.name}: a table of figures whose section names no file in experiments/:\n{lines[0]}"
        missing = [figure for figure in figures(lines) if not stands_in(figure, pool)]
        assert not missing, f"{page.name}: {missing} in no file that the section names\n{lines[0]}"


def test_a_figure_that_no_file_has_is_found():
    assert not stands_in("88.7", {88.61, 0.8861})
    assert stands_in("88.6", {88.61})
    assert stands_in("88.6", {0.8861})
    assert figures(["| a | b |", "|---|---|", "| 99 | **1,234.5 ± 0.6** `x 7` |"]) == ["1,234.5", "0.6"]
