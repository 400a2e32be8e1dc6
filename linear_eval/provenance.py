"""How a result was measured: the fields of its record, and the section of its report."""
from typing import Any, Protocol

from core import measured
from core.machine import code, command, hardware, versions
from core.page import Section

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
    names = ("command", "hardware", "versions", "seed", "seconds")
    return measured.section({name: getattr(result, name) for name in names}, notes=result.notes, **first)
