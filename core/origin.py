"""Where the setting that an error is about comes from."""
import re

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
    for group, choice in choices(settings).items():
        if name.startswith(f"{group}."):
            return f"{line} (the default of {group}={choice})"
        if name in tool.sets(group, choice):
            return f"{line} (set by {group}={choice})"
    return f"{line} (the default)"
