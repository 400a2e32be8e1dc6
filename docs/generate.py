"""Writes the pages that only the site has: the index of recipes, and the settings of each tool."""
import importlib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from core import checkpoint, cli
from core.recipe import text
from core.settings import Group

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("experiments/recipes", "experiments/distillation/cifar100")
TOOLS = ("ssl.pretrain", "linear_eval.evaluate", "linear_eval.finetune", "distill.train", "nas.search", "deploy.export")


def write_pages(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint.write(folder / "recipes.md", recipes_page())
    checkpoint.write(folder / "settings.md", settings_page())


def recipes_page() -> str:
    """A table a folder: each recipe's claim, as its first lines state it."""
    parts = ["# Recipes", "Files of settings for `--recipe`. Expected: the figure of the source that is named; measured: ours."]
    for folder in sorted({path.parent for top in FOLDERS for path in (ROOT / top).rglob("*.yaml")}):
        rows = [recipe_row(path) for path in sorted(folder.glob("*.yaml"))]
        parts += [f"## {folder.relative_to(ROOT)}", _table(["recipe", "what", "hardware", "expected", "measured"], rows)]
    return "\n\n".join(parts) + "\n"


def recipe_row(path: Path) -> list[str]:
    """Name, title, hardware, expected and measured figure, from the comments that a recipe opens with."""
    head = re.match(r"(#.*\n)*", path.read_text())[0].splitlines()
    lines = [line.lstrip("# ") for line in head]
    stated = dict(line.split(": ", 1) for line in lines if re.match(r"(hardware|expected|measured): ", line))
    title = lines[0] if stated else " ".join(lines)
    return [f"`{path.stem}`", title, *(stated.get(name, "") for name in ("hardware", "expected", "measured"))]


def settings_page() -> str:
    """A table a tool: each setting, its default, and what it does."""
    parts = ["# Settings", "Of the command line and of `import nolabel`. Methods and data sets bring others."]
    for module in TOOLS:
        rows = setting_rows(cli.from_arguments(importlib.import_module(module).TOOL, []))
        parts += [f"## {module}", _table(["setting", "default", "what it does"], rows)]
    return "\n\n".join(parts) + "\n"


def setting_rows(settings: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    rows = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            rows += setting_rows(value, f"{prefix}{field.name}.")
        else:
            shown = text(value.name if isinstance(value, Group) else value)
            rows.append((f"`{prefix}{field.name}`", f"`{shown}`" if shown else "", field.metadata.get("help", "")))
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str) -> str:
    return value if value.startswith("`") else re.sub(r"([\\|*_<>\[\]$])", r"\\\1", value)
