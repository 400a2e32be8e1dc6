"""A run's folder: what it holds, whose it is, and who listens to its figures.

    config.yaml  identity.json  metrics.jsonl  last.pt  encoder.safetensors  method.safetensors  report.md  curves.png  …

A sharded run has a folder last/ in place of last.pt (core/sharded_checkpoint.py); either resumes as the other.
"""
import contextlib
import importlib.util
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from core import checkpoint, lock, sharded_checkpoint
from core import identity as identities
from core.errors import DiskFull
from core.processes import gather_objects, is_main, is_sharded
from core.settings import PretrainSettings, Settings, document

NAMES = ("metrics.jsonl", "encoder.safetensors", "classifier.safetensors", "report.md", "report.html", "results.json")
FINISHED = ("encoder.safetensors", "classifier.safetensors")  # what training leaves at its end
NAMES += ("curves.png", "views.png", "skipped.txt", "test.json", "model.onnx", "card.json", "method.safetensors")


class Run:
    """The folder of one configuration. Only the main process writes, and only one command at a time (core/lock.py).

    settings: the whole configuration; images: fingerprints of the data set (vision/splits.py), for tools that see one.
    Both make the identity (core/identity.py), which makes a run this run: a folder that holds anything of another is refused
    here, before anything is written. `begin` makes the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Settings | Mapping[str, Any],
        resume: str = "auto",
        images: dict[str, str] | None = None,
    ):
        self.folder = Path(folder).expanduser()
        self.settings, self.identity = settings, identities.identity(settings) | (images or {})
        self.step = 0  # of last.pt
        self.listeners: list = []
        self.training: dict[str, float] = {}  # figures of the newest steps, without those of an evaluation
        self._unchecked = False  # was it begun by a version that kept no fingerprint of its images?
        self._state = self._found(resume)
        self._seen = self._signature()
        if self._state:
            self.step = self._state["step"]
        gather_objects(None)  # all have looked before one of them writes

    def _found(self, resume: str) -> dict | None:
        """last.pt's content, None for a new run; ValueError where the folder is not ours to write to."""
        out = f"out={self.folder}"
        file = next((p for p in (self.folder, *self.folder.parents) if p.exists() and not p.is_dir()), None)
        if file:
            raise ValueError(f"{out}: {file} is a file, not a folder")
        if not any((self.folder / name).exists() for name in ("last.pt", "last", "identity.json", "config.yaml")):
            if foreign := [name for name in NAMES if (self.folder / name).exists()]:
                raise ValueError(f"{out} holds {foreign[0]}, but no run of ours to resume; {another(self.folder)}")
            return None
        if resume == "never":
            raise ValueError(f"{out} holds a run already; {another(self.folder)}, or resume=auto to resume it")
        state = self._newest()
        before = state["config"] if state else self._identity()
        if changes := identities.difference(before, self.identity):
            way = way_out(self.folder, changes)
            raise ValueError(f"{out} holds a run of another configuration ({'; '.join(changes)}); {way}")
        if state is None and (finished := [name for name in FINISHED if (self.folder / name).exists()]):
            raise ValueError(
                f"{out} holds a finished run ({finished[0]}) without its last.pt, so it cannot be resumed and is not "
                f"overwritten; put last.pt back, or {another(self.folder)}"
            )
        self._unchecked = identities.has_images(self.identity) and not identities.has_images(before)
        return state

    def _newest(self) -> dict | None:
        """Content of last.pt, or of the rest.pt of a sharded run's folder: the later one, if a kill left both."""
        found = [checkpoint.load(self.last)] if self.last.exists() else []
        if folder := sharded_checkpoint.newest(self.shards):
            found.append(checkpoint.load(folder / sharded_checkpoint.REST) | {"folder": folder})
        return max(found, key=lambda state: state["step"], default=None)

    def _identity(self) -> dict:
        """Of a run that has no last.pt: it was killed before it saved, or its tool keeps none."""
        try:
            if (kept := self.folder / "identity.json").exists():
                return dict(json.loads(kept.read_text("utf-8")))
            content = OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))
            kind = type(self.settings) if isinstance(self.settings, Settings) else PretrainSettings
            return identities.identity(content, kind)
        except (OSError, ValueError, TypeError, AttributeError, OmegaConfBaseException, YAMLError) as error:
            why = "holds a config.yaml or identity.json that is none of ours"
            raise ValueError(f"out={self.folder} {why}; {another(self.folder)}") from error

    def _signature(self) -> list:
        """Changes when another command works in the folder."""
        files = [self.folder / name for name in ("last.pt", "last", "metrics.jsonl", *FINISHED)]
        return [(s.st_ino, s.st_mtime_ns, s.st_size) if (s := _stat(file)) else None for file in files]

    def begin(self) -> None:
        """Lock and make the folder, and forget what was logged after the checkpoint: those steps are about to be done again."""
        if is_main():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                note = lock.hold(self.folder, self)
                if self._signature() != self._seen:
                    raise ValueError(f"out={self.folder} was changed by another command meanwhile; give the command again")
                checkpoint.sweep(self.folder)
                self.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(document(self.settings))))
                self.write("identity.json", json.dumps(self.identity, indent=1, sort_keys=True) + "\n")
            except OSError as error:
                raise ValueError(f"out={self.folder} cannot be written: {error.strerror}; give another out") from error
            kept = [json.dumps(row) + "\n" for row in self.metrics() if row["step"] <= self.step]
            self.write("metrics.jsonl", "".join(kept))
            if note:
                log_line(f"note: {note}")
        if self._unchecked:
            older = "was begun by a version that kept no fingerprint of its images, so they are not compared"
            log_line(f"note: {self.folder} {older}")
        gather_objects(None)  # the folder is there for all

    def restore(self, method, optimizer) -> dict | None:
        """Put last.pt's state where it belongs and forget it.  Returns `extra`, or None when there is no last.pt."""
        state, self._state = self._state, None
        if state is None:
            return None
        try:
            if folder := state.get("folder"):
                sharded_checkpoint.restore(folder, state, method, optimizer)
            else:
                sharded_checkpoint.restore_whole(state, method, optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            why = str(error).strip().splitlines()[-1].strip()
            way = another(self.folder)
            raise ValueError(f"{state.get('folder', self.last)} does not fit: data or code changed ({why}); {way}") from error
        return state["extra"]

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def shards(self) -> Path:
        return self.folder / "last"

    def metrics(self) -> list[dict]:
        """All rows logged so far."""
        path = self.folder / "metrics.jsonl"
        rows = []
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # killed while writing this line
        return rows

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One row of metrics.jsonl, and a call of each listener."""
        if not is_main():
            return
        row = {"step": step, **{k: _plain(v) for k, v in figures.items()}}
        try:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            for listener in self.listeners:
                listener.log(step, row)
        except OSError as error:
            raise DiskFull(f"{self.folder} takes no figures: {error.strerror}; last.pt is untouched") from error

    def tick(self, step: int) -> None:
        """A step is done: all that a bar needs to know."""
        for listener in self.listeners:
            listener.tick(step)

    def save(self, step: int, method, optimizer, extra: dict) -> None:
        """Collective where the method is sharded."""
        if is_sharded(method):
            sharded_checkpoint.save(self.shards, method, optimizer, step=step, config=self.identity, extra=extra)
            if is_main():
                self.last.unlink(missing_ok=True)
        elif is_main():
            checkpoint.save(
                self.last,
                step=step,
                method=method.state_dict(),
                optimizer=optimizer.state_dict(),
                config=self.identity,
                extra=extra,
            )
            shutil.rmtree(self.shards, ignore_errors=True)
        self.step = step

    def write(self, name: str, data: bytes | str) -> None:
        if is_main():
            checkpoint.write(self.folder / name, data)

    def write_tensors(self, name: str, tensors: dict, header: dict[str, str]) -> None:
        if is_main():
            checkpoint.write_tensors(self.folder / name, tensors, header)

    def close(self) -> None:
        for listener in self.listeners:
            with contextlib.suppress(OSError):  # a full disk has been reported by now
                listener.close()
        self.listeners.clear()


def another(folder: Path) -> str:
    """The advice to write elsewhere, with a folder that is free."""
    numbers = range(2, 1000)
    free = next((path for n in numbers if not (path := folder.with_name(f"{folder.name}-{n}")).exists()), None)
    return f"give another out{f', such as out={free}' if free else ''}"


def way_out(folder: Path, changes: list[str]) -> str:
    """What to do where a folder holds a run of another configuration.  changes: `identity.difference`'s"""
    encoder, more = folder / "encoder.safetensors", another(folder)
    if not all(change.startswith(("epochs:", "steps:")) for change in changes):
        return more
    before = ", ".join(change.partition(" → ")[0].replace(": ", "=") for change in changes)
    fixed = f"a run's length sets its schedule and stays: {before} resumes it"
    if encoder.is_file():
        return f"{fixed}; to train on from its weights say encoder={encoder} and {more}"
    return f"{fixed}, or {more}"


def _stat(path: Path):
    try:
        return path.stat()
    except OSError:
        return None


def _plain(value) -> float | int | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no nan
    return float(f"{value:.8g}") if isinstance(value, float) else value  # as many digits as float32 has


class ProgressBar:
    """Loss, images a second and time to go. A bar on a terminal; elsewhere a line every half minute."""

    FORMS = {  # noqa: RUF012
        "loss": "loss {:.3f}",
        "images_per_second": "{:.0f} images/s",
        "knn": "kNN {:.1f} %",
        "validation_accuracy": "validation {:.1f} %",
    }

    def __init__(self, steps: int, start: int, title: str):
        self.steps, self.start, self.live = steps, start, sys.stderr.isatty()
        self.started = self.printed_at = time.monotonic()
        self.row: dict = {}
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn(title),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
                speed_estimate_period=600,  # seconds: steps may take one
            )
            self.bar.start()
            self.task = self.bar.add_task(title, total=steps, completed=start, figures="")

    def tick(self, step: int) -> None:
        now = time.monotonic()
        if self.live:
            self.bar.update(self.task, completed=step)
        elif now - self.printed_at > 30 or step == self.steps:
            self.printed_at = now
            left = (now - self.started) / max(step - self.start, 1) * (self.steps - step)
            print(f"step {step}/{self.steps}  {self.figures}  {left / 60:.1f} min to go", file=sys.stderr, flush=True)

    def log(self, step: int, row: dict) -> None:
        self.row |= row
        if self.live:
            self.bar.update(self.task, figures=self.figures)

    @property
    def figures(self) -> str:
        numbers = {name: value for name, value in self.row.items() if isinstance(value, (int, float))}
        return "  ".join(form.format(numbers[name]) for name, form in self.FORMS.items() if name in numbers)

    def close(self) -> None:
        if self.live:
            self.bar.stop()


def log_line(text: str) -> None:
    """A line to the person at the terminal, once."""
    if is_main():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def counting(title: str):
    """A bar for work that counts up before a run starts.  Yields progress(done, total); shows nothing if not called."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None  # which rich's bars need there
    bar = Progress(console=console, disable=not ((sys.stderr.isatty() or notebook) and is_main()))
    task = None

    def progress(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(title, total=total)
        bar.update(task, completed=done)

    try:
        yield progress
    finally:
        bar.stop()
