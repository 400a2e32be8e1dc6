"""The provenance of kept figures: command, code, machine, versions and seeds, read from any kept JSON file."""
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from experiments.cells import CellRecord


@dataclass(frozen=True)
class Provenance:
    """code: commits, with a + where files had changed; seeds: None where the file has no seeds, as of times; machines: names of
    all, where a table's cells name them.
    """

    command: str
    code: tuple[str, ...]
    hardware: Mapping
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    machines: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping) -> "Provenance":
        """Raises KeyError where a file does not name command, code and hardware."""
        seeds = document.get("seeds", document.get("seed"))
        return cls(
            document["command"].removeprefix("uv run "), _tuple(document["code"]), document["hardware"],
            document.get("versions", {}), None if seeds is None else _tuple(seeds), _tuple(document.get("machines", ())),
        )

    def to_json(self) -> dict:
        machines = {"machines": list(self.machines)} if self.machines else {}
        return {"command": self.command, "hardware": self.hardware, "versions": self.versions, **machines,
                "code": list(self.code)}

    @property
    def machine(self) -> str:
        cores = self.hardware["cores"]
        return self.hardware["gpu"] or f"{self.hardware['cpu']}, {cores} core{'' if cores == 1 else 's'}"


def of_cells(command: str, records: Iterable[CellRecord]) -> Provenance:
    """Of a table: hardware and versions of its first finished cell; of this process, where none is finished."""
    from core.machine import code, hardware, versions

    records = list(records)
    if not records:
        return Provenance(command, (code(),), hardware(), versions())
    commits = tuple(sorted({record.commit for record in records}))
    return Provenance(command, commits, records[0].hardware, records[0].versions, machines=machine_names(records))


def machine_names(records: Iterable[CellRecord]) -> tuple[str, ...]:
    return tuple(sorted({r.hardware["gpu"] or r.hardware["cpu"] for r in records if r.hardware}))


def of_file(document: Mapping) -> list[Provenance]:
    """That of a kept file, or one a case where its cases were measured one by one.  Raises KeyError."""
    own = document.get("certificate", document)  # the key of experiments/tabular
    parts = document.get("cases") or document.get("cells")
    if "command" not in own and isinstance(parts, dict):
        return [Provenance.from_json({**document, **part}) for part in parts.values()]
    return [Provenance.from_json(own)]


def _tuple(value) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
