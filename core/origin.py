"""Where the setting that an error is about comes from."""
import re
from functools import cache

from core.composition import Tool
from core.recipe import RecipeFile
from core.settings import Settings, choices, flat


def one_line(error: ValueError, file: RecipeFile | None) -> str:
    """The error in one line; one about a setting of a recipe file begins with the file and the line."""
    return f"{file.where(error) if file else ''}{' '.join(str(error).split())}"


def located(tool: Tool, settings: Settings, error: ValueError) -> str:
    """The error in one line, with where its setting comes from, unless that is the command line.

    "recipe.yaml, line 3: optim.lr=-1: …"; "optim.lr=…: … (set by method=byol)"; "…: … (the default)".
    """
    origin = settings.origin
    line = one_line(error, RecipeFile(origin.file, origin.lines))
    found = re.match(r"([\w.]+)=", str(error))
    if not found or (name := found[1]) in origin.lines or name in origin.names or name not in flat(settings):
        return line
    return f"{line} ({implied(tool, settings, name)})"


def of(tool: Tool, settings: Settings, name: str) -> str:
    """Where a setting's value comes from: "recipe.yaml, line 3"; "given", on the command line, by a caller or by the plan of a
    folder; or what `implied` says.
    """
    origin = settings.origin
    if name in origin.lines:
        return f"{origin.file}, line {origin.lines[name]}"
    return "given" if name in origin.names else implied(tool, settings, name)


def implied(tool: Tool, settings: Settings, name: str) -> str:
    """Where the value of a setting that was not given comes from."""
    for group, choice in choices(settings).items():
        if name.startswith(f"{group}."):
            return f"the default of {group}={choice}"
        if name in _set_by(tool, group, choice):
            return f"set by {group}={choice}"
    return "the default"


@cache
def _set_by(tool: Tool, group: str, choice: str) -> set[str]:
    return tool.sets(group, choice)
