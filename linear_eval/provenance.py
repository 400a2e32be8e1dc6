"""How a result was measured: the fields of its record, and the section of its report."""
from typing import Any, Protocol

from core.machine import code, command, hardware, versions
from linear_eval.page import Code, Section, Table

PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "faiss-gpu", "faiss-cpu")


class Measured(Protocol):
    """A record of results.json."""

    seed: int
    command: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    seconds: float | None
    notes: list[str]


def provenance() -> dict[str, Any]:
    """The command of this process, its code, machine and versions, by the names of a record's fields."""
    return {"command": command(), "code": code(), "hardware": hardware(), "versions": versions(PACKAGES)}


def section(result: Measured, **first: str) -> Section:
    """first: lines before those that every result has"""
    h, seconds = result.hardware, result.seconds
    lines = first | {
        "machine": ", ".join(filter(None, [h["gpu"], h["cpu"], f"{h['cores']} cores", f"{h['threads']} threads"])),
        "seed": str(result.seed),
        "time": f"{seconds / 60:.1f} minutes" if seconds else "",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    table = Table(["", ""], [[name, value] for name, value in lines.items() if value], slice(0))
    return "How it was measured", [Code(result.command), table, *(f"Note: {note}." for note in result.notes)]
