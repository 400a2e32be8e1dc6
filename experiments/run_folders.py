"""Run folders as a page shows them: rows of metrics.jsonl, read again only where a file has changed."""
import contextlib
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PICTURES = ("curves.png", "views.png")
QUIET = 120.0  # seconds without a new row after which a run that has not ended is not called running


@dataclass(frozen=True)
class RunFolder:
    name: str  # below the root
    folder: Path
    log: tuple[dict, ...]
    changed: float  # seconds since the epoch

    @property
    def report(self) -> Path | None:
        """Its page, where it has one."""
        return file if (file := self.folder / "report.html").is_file() else None

    @property
    def state(self) -> str:
        if (self.folder / "encoder.safetensors").exists() or (self.folder / "classifier.safetensors").exists():
            return "ended"
        return "running" if time.time() - self.changed < QUIET else "stopped"

    @property
    def cells(self) -> list[str]:
        """State, step, loss, kNN, test kNN, images/s, age of the last row."""
        test = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            test = f"{json.loads((self.folder / 'test.json').read_text())['pretrained']['knn']:.1f}"
        speed, loss, knn = self._last("images_per_second"), self._last("loss"), self._last("knn")
        return [self.state, f"{self._last('step') or 0:,.0f}", "" if loss is None else f"{loss:.3f}",
                "" if knn is None else f"{knn:.1f}", test, "" if speed is None else f"{speed:,.0f}", _age(self.changed)]

    def _last(self, name: str) -> float | None:
        return next((row[name] for row in reversed(self.log) if _number(row.get(name))), None)

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, figure), of the rows that have it."""
        return [(row["step"], row[name]) for row in self.log if _number(row.get("step")) and _number(row.get(name))]


def run_folders(root: Path) -> list[RunFolder]:
    """The folders below root that have a metrics.jsonl, the newest first."""
    found = []
    for path in root.rglob("metrics.jsonl"):
        with contextlib.suppress(OSError):
            status = path.stat()
            name = path.parent.relative_to(root).as_posix()
            found.append(RunFolder(name, path.parent, _log(path, status.st_mtime_ns, status.st_size), status.st_mtime))
    return sorted(found, key=lambda run: run.changed, reverse=True)


@lru_cache(maxsize=1000)
def _log(path: Path, changed: int, size: int) -> tuple[dict, ...]:
    """The rows; a last one that is not whole, and what is no row, are left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return tuple(rows)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
