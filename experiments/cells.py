"""Cells: a table's commands, each with an address computed from everything that decides its result.

An address is a hash of the command's arguments, of the addresses of the cells whose files it reads, and of the code that runs
it. A finished cell is never run again. A changed setting gives another address to its cell and to the cells that read that
one's files, and to no others. In runs/cells:

    <name>-<hash>/       what the tool writes
    <name>-<hash>.log    what it prints
    <name>-<hash>.json   its record: command, exit code, commit, hardware, seconds

A cell runs under a lock that ends with its process, so any number of runners can share a table.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from core import signals
from experiments.code_version import ROOT, code_version, file_hashes, version_of

MISSING = 70  # the exit code in the record of a tool that ends well and does not write all of its files
CHANGED = "the code has changed since this command began: run the same command again, it uses the new code"
STOPPED = signals.CODES  # exit codes of a tool that a signal asked to stop


class State(StrEnum):
    """How an attempt at a cell ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    BLOCKED = "blocked"  # a cell that it needs failed
    ELSEWHERE = "elsewhere"  # another process runs it


@dataclass(frozen=True)
class CellRecord:
    """The provenance of a cell.  code: exit code; version: of the code, comments apart."""

    name: str = ""
    code: int = 0
    command: str = ""
    commit: str = ""
    version: str = ""
    tries: int = 0
    seconds: float = 0.0
    hardware: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping) -> "CellRecord":
        return cls(**{f.name: document[f.name] for f in fields(cls) if f.name in document})


@dataclass(frozen=True)
class Cell:
    """A command.  arguments: with the placeholders {out}, {id} and {<cell>.<file>}, which need addresses.  files: name → path
    of what it writes, with the same placeholders.  needs: the cells whose files it reads, by name.
    """

    name: str  # for people
    module: str
    arguments: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    needs: tuple[tuple[str, "Cell"], ...] = ()
    minutes: float = 0.0  # expected, of two cores
    exit_codes: tuple[int, ...] = (0,)  # exit codes that count as success

    @cached_property
    def id(self) -> str:
        parts = [self.module, self.arguments, self.files, [(name, cell.id) for name, cell in self.needs]]
        parts += [version_of(self.module, self.arguments), *file_hashes(self.arguments)]
        label = re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")[:40]
        return f"{label}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"

    @property
    def out(self) -> Path:
        return folder() / self.id

    @property
    def log(self) -> Path:
        return folder() / f"{self.id}.log"

    @property
    def record_file(self) -> Path:
        return folder() / f"{self.id}.json"

    @property
    def command(self) -> list[str]:
        return ["-m", self.module, *map(self._filled, self.arguments)]

    @property
    def text(self) -> str:
        """The command as a user types it."""
        return f"uv run python {shlex.join(self.command)}"

    def file(self, name: str) -> Path:
        """The path of a file that it writes; "record" is its own record.  Raises ValueError."""
        paths = dict(self.files) | {"record": str(self.record_file)}
        if name not in paths:
            raise ValueError(f"cell {self.name} writes {', '.join(paths)}; no {name}")
        return Path(self._filled(paths[name]))

    def _filled(self, text: str) -> str:
        needs = {name: _Files(cell) for name, cell in self.needs}
        return text.format_map({**needs, "out": self.out, "id": self.id})

    @property
    def done(self) -> bool:
        record = self.record
        return record is not None and record.code in self.exit_codes and not self.missing_files

    @property
    def missing_files(self) -> list[str]:
        return [name for name, _ in self.files if not self.file(name).exists()]

    @property
    def record(self) -> CellRecord | None:
        """How its last attempt ended; None where there was none."""
        try:
            return CellRecord.from_json(json.loads(self.record_file.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @property
    def last_line(self) -> str:
        """Of its log: why it failed."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it printed nothing"

    def write_log(self, text: str) -> None:
        with open(self.log, "a") as log:
            log.write(f"{text}\n")


class _Files:
    """A cell's files as attributes, for str.format."""

    def __init__(self, cell: Cell):
        self._cell = cell

    def __getattr__(self, name: str) -> str:
        return str(self._cell.file(name))


def python_path() -> str:
    """PYTHONPATH with which a process finds this repository's modules from any folder."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def folder() -> Path:
    return Path("runs") / "cells"


def ordered(cells: Sequence[Cell]) -> list[Cell]:
    """These cells and those that they need, each once, after the cells that it needs."""
    by_id: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        if cell.id not in by_id:
            for _, needed in cell.needs:
                add(needed)
            by_id[cell.id] = cell

    for cell in cells:
        add(cell)
    return list(by_id.values())


@contextlib.contextmanager
def file_lock(cell: Cell) -> Iterator[int | None]:
    """Yields the descriptor of the cell's lock; None while another process holds it.

    By flock and not by the package filelock: the tool inherits the descriptor, and so holds the lock when its runner is killed.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with open(folder() / f".{cell.id}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield file.fileno()


def current(cell: Cell) -> bool:
    """Is the code on disk still the code of the cell's address?"""
    code_version.cache_clear()
    return replace(cell).id == cell.id


Started = Callable[[subprocess.Popen], None]


def run_cell(cell: Cell, environment: dict[str, str], started: Started = lambda process: None) -> State:
    """Run a cell, unless it is done.  → DONE, FAILED, STOPPED or ELSEWHERE

    environment: added to this process's own.  started: called with the tool's process.
    """
    with file_lock(cell) as lock:
        if lock is None:
            return State.ELSEWHERE
        if cell.done:
            return State.DONE
        start = time.time()
        if not current(cell):
            cell.write_log(CHANGED)
            return State.FAILED
        cell.write_log(f"\n$ {cell.text}")
        with open(cell.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *cell.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": python_path()} | environment, pass_fds=[lock],
            )
        started(process)
        code = process.wait()
        if code in STOPPED:
            return State.STOPPED
        if not current(cell):
            cell.write_log(CHANGED)
            return State.FAILED
        return _write_record(cell, code, time.time() - start)


def _write_record(cell: Cell, code: int, seconds: float) -> State:
    from core import checkpoint  # these import torch, and a job must soon be able to catch a signal
    from core.machine import code as commit
    from core.machine import hardware, versions

    if code in cell.exit_codes and cell.missing_files:
        cell.write_log(f"it ended well and did not write {', '.join(cell.missing_files)}")
        code = MISSING
    tries = cell.record.tries + 1 if cell.record else 1
    version = version_of(cell.module, cell.arguments)
    record = CellRecord(cell.name, code, cell.text, commit(), version, tries, round(seconds, 1), hardware(), versions())
    checkpoint.write(cell.record_file, json.dumps(asdict(record), indent=1) + "\n")
    return State.DONE if code in cell.exit_codes else State.FAILED
