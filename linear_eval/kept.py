"""Finished parts of an evaluation, kept in its run folder until all are done: a stopped evaluation resumes with them."""
import io
import json
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import checkpoint
from core.machine import code, versions
from linear_eval.provenance import PACKAGES


@dataclass(frozen=True)
class Kept:
    """A part as it was written.  record: of JSON values; scores: M,C of the test images, where the report may show them"""

    record: Any
    scores: np.ndarray | None = None


class KeptParts:
    """One file a part. Parts of other code or packages are computed again; those of other settings cannot be here: the run
    folder is of one configuration (core/run.py).

    elapsed: seconds that the evaluation has taken, those of earlier starts included.
    """

    def __init__(self, folder: Path, seconds: float = 0.0):
        self.folder = folder / "parts"
        self._made_by = json.dumps([code(), versions(PACKAGES)])
        self._start = time.monotonic() - seconds
        files = sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []
        found = {path.stem: part for path in files if (part := self._read(path))}
        self.parts = {name: part for name, (part, _) in found.items()}
        self._start -= max((elapsed for _, elapsed in found.values()), default=0.0)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def write(self, name: str, part: Kept) -> None:
        """Raises core.errors.DiskFull."""
        about = {"made_by": self._made_by, "elapsed": self.elapsed, "record": part.record}
        arrays = {} if part.scores is None else {"scores": part.scores}
        buffer = io.BytesIO()
        np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
        self.folder.mkdir(exist_ok=True)
        checkpoint.write(self.folder / f"{name}.npz", buffer.getvalue())
        self.parts[name] = part

    def clear(self) -> None:
        """All is done: results.json has everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, path: Path) -> tuple[Kept, float] | None:
        """None of a file that other code wrote, or that cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                if about["made_by"] != self._made_by:
                    return None
                return Kept(about["record"], file.get("scores")), float(about["elapsed"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
