"""Cells: a table's work, a command of a tool each, addressed by what decides its result.

A cell's address is a hash of its command's words, of the addresses of the cells whose files it reads, and of the code that runs
it. What is done is never done again; a changed setting has another address, and so has whatever reads its files, and nothing
else. In runs/cells:

    <name>-<hash>/       what the tool leaves
    <name>-<hash>.log    what it said
    <name>-<hash>.json   how it ended: command, code, hardware, seconds

A cell is done under a lock that dies with its process, so that any number of runners share a table.
"""
import ast
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import yaml

from core import signals

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("core", "vision", "linear_eval")  # rooms whose code every tool runs; its own beside them
OTHERS = {"nas": ("ssl",), "experiments": ("ssl", "nas", "distill", "deploy")}  # and those that a room's tools call
MISSING = 70  # recorded where a tool ends well and leaves not all of its files
CHANGED = "the code has changed since this command began: the same command goes on with what it is now"
STOPPED = signals.CODES  # exit codes of a tool that a signal asked to stop


@dataclass(frozen=True)
class Cell:
    """A command.  name: for people.  words: of its command line, with {out}, {id} and {<cell>.<file>} for what is not known
    before.  files: name → path of what it leaves, with the same placeholders.  needs: the cells whose files it reads, by name.
    """

    name: str
    module: str
    words: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    needs: tuple[tuple[str, "Cell"], ...] = ()
    minutes: float = 0.0  # expected, of two cores
    codes: tuple[int, ...] = (0,)  # exit codes with which it has done its work

    @cached_property
    def id(self) -> str:
        said = [self.module, self.words, self.files, [(n, c.id) for n, c in self.needs]]
        said += [version(self.module, method_of(self.words)), *map(_digest, files_of(self.words))]
        plain = re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")[:40]
        return f"{plain}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}"

    @property
    def out(self) -> Path:
        return folder() / self.id

    @property
    def log(self) -> Path:
        return folder() / f"{self.id}.log"

    @property
    def record(self) -> Path:
        return folder() / f"{self.id}.json"

    @property
    def command(self) -> list[str]:
        return ["-m", self.module, *(self._filled(word) for word in self.words)]

    @property
    def text(self) -> str:
        """As one would type it."""
        return f"uv run python {shlex.join(self.command)}"

    def file(self, name: str) -> Path:
        """Raises ValueError where it leaves no file of that name."""
        paths = dict(self.files)
        if name not in paths:
            raise ValueError(f"cell {self.name} leaves {', '.join(paths)}; no {name}")
        return Path(self._filled(paths[name]))

    def _filled(self, text: str) -> str:
        known = {"out": str(self.out), "id": self.id}
        known |= {f"{name}.{file}": str(cell.file(file)) for name, cell in self.needs for file, _ in cell.files}
        return re.sub(r"\{([\w.]+)\}", lambda m: known[m[1]], text)

    @property
    def done(self) -> bool:
        return self.ended.get("code") in self.codes and all(self.file(name).exists() for name, _ in self.files)

    @property
    def ended(self) -> dict:
        """How it ended when it was last tried; empty where it never was."""
        try:
            return json.loads(self.record.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    @property
    def why(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"


def paths() -> str:
    """Where a process finds our modules, whatever its folder."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def folder() -> Path:
    return Path("runs") / "cells"


@cache
def version(module: str, method: str = "") -> str:
    """Of the code that a tool runs: a hash of its rooms' syntax, comments and docstrings apart, and of their yaml.

    method: where it is known, of all methods of the tool's room only that one and those that it builds on count.
    """
    digest, own = hashlib.sha256(), module.split(".")[0]
    methods = ROOT / own / "method"
    chosen = _closure(methods, method) if method and (methods / f"{method}.py").exists() else None
    for room in sorted({*SHARED, own, *OTHERS.get(own, ())}):
        for path in sorted(ROOT.joinpath(room).rglob("*")):
            place = path.relative_to(ROOT)
            if place.parts[:2] in (("experiments", "tables"), ("experiments", "recipes")):
                continue  # what is said in words is in the words
            if path.parent == methods and chosen is not None and path.stem not in chosen:
                continue
            if path.suffix == ".py":
                digest.update(f"{place} {_meaning(path.read_text())}\n".encode())
            elif path.suffix == ".yaml":
                digest.update(f"{place} ".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def method_of(words: Sequence[str]) -> str:
    """The one that a command names, or its recipe; "" where neither does."""
    said = _given(words)
    if "method" not in said and (path := ROOT / said.get("recipe", "?")).is_file():
        said = {name: str(value) for name, value in (yaml.safe_load(path.read_text()) or {}).items()}
    return said.get("method", "")


def _given(words: Sequence[str]) -> dict[str, str]:
    """--name=value … → {name: value, …}"""
    return dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)


def _closure(folder: Path, name: str) -> set[str]:
    """A method, the methods whose modules it imports, and so on; __init__ too."""
    found, left = {"__init__"}, {name}
    while left:
        one = left.pop()
        found.add(one)
        text = (folder / f"{one}.py").read_text()
        others = {path.stem for path in folder.glob("*.py")} - found
        left |= {other for other in others if re.search(rf"\bmethod(\.| import .*\b){other}\b", text)}
    return found


def files_of(words: Sequence[str]) -> list[Path]:
    """Recipes and modules of the repository that a command names: what is in them decides too."""
    named = (ROOT / value.split(":")[0] for value in _given(words).values())
    return [path for path in named if path.suffix in (".yaml", ".py") and path.is_file()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return ast.dump(tree)


def ordered(cells: Sequence[Cell]) -> list[Cell]:
    """These and what they need, each once, after what it needs."""
    found: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        if cell.id not in found:
            for _, needed in cell.needs:
                add(needed)
            found[cell.id] = cell

    for cell in cells:
        add(cell)
    return list(found.values())


@contextlib.contextmanager
def alone(cell: Cell) -> Iterator[int | None]:
    """Yields the lock, where it is ours to do; None while another process has it."""
    folder().mkdir(parents=True, exist_ok=True)
    with open(folder() / f".{cell.id}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield file.fileno()


def current(cell: Cell) -> bool:
    """Is its code still what its address says?"""
    version.cache_clear()
    return replace(cell).id == cell.id


def perform(cell: Cell, environment: dict[str, str], started: Callable[[subprocess.Popen], None] = lambda process: None) -> str:
    """Do it, unless it is done.  → "done", "failed", "stopped" or "elsewhere" (another process is at it).

    environment: beside this process's own.  started: told of the tool's process.
    """
    with alone(cell) as lock:
        if lock is None:
            return "elsewhere"
        if cell.done:
            return "done"
        tries, start = cell.ended.get("tries", 0) + 1, time.time()
        with open(cell.log, "ab") as log:
            if not current(cell):
                log.write(f"{CHANGED}\n".encode())
                return "failed"
            log.write(f"\n$ {cell.text}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *cell.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": paths()} | environment,
                pass_fds=[lock],  # it holds the lock too, should we be killed
            )
        started(process)
        ended = process.wait()
        if ended in STOPPED:
            return "stopped"
        if not current(cell):
            with open(cell.log, "a") as log:
                log.write(f"{CHANGED}\n")
            return "failed"
        from core import checkpoint  # these bring torch, and a job must soon be able to catch a signal
        from core.machine import code, hardware, versions

        missing = [name for name, _ in cell.files if not cell.file(name).exists()]
        if ended in cell.codes and missing:
            with open(cell.log, "a") as log:
                log.write(f"it ended well and left no {', '.join(missing)}\n")
        kept = {
            "name": cell.name, "code": MISSING if ended in cell.codes and missing else ended, "command": cell.text,
            "commit": code(), "version": version(cell.module, method_of(cell.words)), "tries": tries,
            "seconds": round(time.time() - start, 1), "hardware": hardware(), "versions": versions(),
        }
        checkpoint.write(cell.record, json.dumps(kept, indent=1) + "\n")
        return "done" if kept["code"] in cell.codes else "failed"
