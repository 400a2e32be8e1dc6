"""What is measured, and where each figure was born: docs/measured.md from the JSON files in experiments/.

    uv run python -m experiments.measured

A line a file: the command that makes it, the code it was made with, the machine, the seeds. A test holds the page to the files,
and every file that README and docs name to having all of these.
"""
import argparse
import json
import sys
from pathlib import Path

from core import checkpoint

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "measured.md"
HEAD = """# What is measured, and where each figure was born

Every figure in README and docs comes from one of these files. Code: the commit that was measured, where the command
is to be found should it be gone since; a + says that files had changed. Seeds: – where what is measured is a time.
`uv run python -m experiments.measured` writes this page from the files.

| file, below experiments/ | command | code | machine | seeds |
|---|---|---|---|---|
"""


def certificates(document: dict) -> list[dict]:
    """Those of a file: its own, or its cases' where they were measured one by one."""
    own = document.get("certificate", document)
    parts = document.get("cases") or document.get("cells")
    if "command" not in own and isinstance(parts, dict):
        return [{**document, **part} for part in parts.values()]
    return [own]


def line(path: Path) -> str:
    """Raises KeyError where a file does not say how it came to be."""
    found = certificates(json.loads(path.read_text()))
    commands = list(dict.fromkeys(c["command"].removeprefix("uv run ") for c in found))
    codes = list(dict.fromkeys(code for c in found for code in ([c["code"]] if isinstance(c["code"], str) else c["code"])))
    machines = list(dict.fromkeys(machine(c["hardware"]) for c in found))
    said = [c.get("seeds", c.get("seed", [])) for c in found]
    seeds = dict.fromkeys(seed for some in said for seed in (some if isinstance(some, list) else [some]))
    told = ", ".join(map(str, seeds)) or "–"
    name = path.relative_to(HERE).as_posix()
    return f"| {name} | {'; '.join(f'`{c}`' for c in commands)} | {', '.join(codes)} | {'; '.join(machines)} | {told} |"


def machine(hardware: dict) -> str:
    cores = hardware["cores"]
    return hardware["gpu"] or f"{hardware['cpu']}, {cores} core{'' if cores == 1 else 's'}"


def files() -> list[Path]:
    """All but those that a kept table's figures are drawn from, in folders of their own: they were born with the table."""
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
