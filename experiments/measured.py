"""Writes docs/measured.md: the provenance of every kept figure, from the JSON files in experiments/.

    uv run python -m experiments.measured

A line a file: the command that makes it, the commit of its code, the machine, the seeds. A test compares the page with the
files, and requires all of these of every file that README and docs name.
"""
import argparse
import json
import sys
from pathlib import Path

from core import checkpoint
from experiments.provenance import of_file

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "measured.md"
HEAD = """# Provenance of measured figures

Every figure in README and docs comes from one of these files. Code is the commit that was measured; a + means that files had
changed. Where a command does not exist any more, that commit has it. Seeds: – where a time was measured.
`uv run python -m experiments.measured` writes this page from the files.

| file, below experiments/ | command | code | machine | seeds |
|---|---|---|---|---|
"""


def line(path: Path) -> str:
    """Raises KeyError where a file has no provenance."""
    records = of_file(json.loads(path.read_text()))
    commands = _joined((f"`{record.command}`" for record in records), "; ")
    code = _joined(commit for record in records for commit in record.code)
    machines = _joined((record.machine for record in records), "; ")
    seeds = _joined(str(seed) for record in records for seed in record.seeds or ()) or "–"
    return f"| {path.relative_to(HERE).as_posix()} | {commands} | {code} | {machines} | {seeds} |"


def _joined(texts, separator: str = ", ") -> str:
    """Each once."""
    return separator.join(dict.fromkeys(texts))


def files() -> list[Path]:
    """All but the inputs of kept tables' figures, which lie in folders of their own: their tables name them."""
    return sorted(path for path in HERE.rglob("*.json") if path.parent.parent.name != "measured")


def page() -> str:
    return HEAD + "\n".join(map(line, files())) + "\n"


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    checkpoint.write(PAGE, page())
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
