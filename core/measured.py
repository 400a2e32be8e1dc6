"""The section of a report on how its figures came about: command, settings and where they come from, machine, versions."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import origin
from core.composition import Tool
from core.page import Code, Section, Table
from core.recipe import text
from core.settings import choices, flat

HEADING = "How it was measured"


@dataclass(frozen=True)
class Configured:
    """A tool and its settings."""

    tool: Tool
    settings: Any

    @property
    def table(self) -> Table:
        """Every setting, its value, and where that comes from."""
        groups = choices(self.settings)
        values = groups | {name: text(value) for name, value in flat(self.settings).items()
                           if name not in groups and not name.endswith("_target_")}
        rows = [[name, value, origin.of(self.tool, self.settings, name)] for name, value in values.items()]
        folded = f"All {len(rows)} settings, and where each comes from"
        return Table(["setting", "value", "from"], rows, slice(0), folded=folded)


def section(made: Mapping[str, Any], settings: Table | None = None, notes: Sequence[str] = (), **first: str) -> Section:
    """made: what `machine.provenance_of` gives, or a record's fields of these names; first: lines before the usual ones"""
    h, seconds = made["hardware"], made.get("seconds")
    threads = ", ".join(map(str, h["threads"])) if isinstance(h["threads"], list) else h["threads"]
    seeds = made["seeds"] if "seeds" in made else [made["seed"]]
    lines = first | {
        "machine": ", ".join(filter(None, [h["gpu"], h["cpu"], f"{h['cores']} cores", f"{threads} threads"])),
        "seed": ", ".join(map(str, seeds)),
        "time": f"{seconds / 60:.1f} minutes" if seconds else "",
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "code": "" if made.get("code", "unknown") == "unknown" else f"commit {made['code']}",
    }
    table = Table(["", ""], [[name, value] for name, value in lines.items() if value], slice(0))
    return HEADING, [Code(made["command"]), table, *([settings] if settings else []), *(f"Note: {note}." for note in notes)]
