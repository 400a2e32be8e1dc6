"""A run's folder: what it holds, whose it is, and who listens to its figures.

    config.yaml  metrics.jsonl  last.pt  encoder.safetensors  report.md  curves.png  TensorBoard's files
"""
import contextlib
import json
import math
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from core import checkpoint
from core.config import difference
from core.distributed import broadcast_object, is_main
from core.errors import DiskFull


class Run:
    """The folder of one configuration. Only the main process writes.

    identity: the configuration less what does not change the result; another identity in the same folder is refused.
    """

    def __init__(self, folder: str | Path, config: dict, identity: dict, resume: str = "auto"):
        self.folder = Path(folder).expanduser()
        self.config, self.identity = config, identity
        self.state = None  # last.pt's content, when there is one to go on from
        self.listeners: list = []
        self._open(resume)

    def _open(self, resume: str) -> None:
        if resume not in ("auto", "never"):
            raise ValueError(f"resume={resume}: there are auto and never")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out={self.folder} is a file, not a folder")
        if self.last.exists():
            if resume == "never":
                raise ValueError(f"out={self.folder} holds a run already; give another out, or resume=auto to go on")
            self.state = checkpoint.load(self.last)
            if changes := difference(self.state["config"], self.identity):
                raise ValueError(
                    f"out={self.folder} holds a run of another configuration ({'; '.join(changes)}); give another out"
                )
        elif (self.folder / "encoder.safetensors").exists():
            raise ValueError(f"out={self.folder} holds an encoder but no last.pt of ours; give another out")
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.write(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.config)))
            self._cut_metrics()
        broadcast_object(None)  # the folder is there for all

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def step(self) -> int:
        return self.state["step"] if self.state else 0

    def _cut_metrics(self) -> None:
        """Forget what was logged after the checkpoint: those steps are about to be done again."""
        lines = [json.dumps(row) for row in self.metrics() if row["step"] <= self.step]
        checkpoint.write(self.folder / "metrics.jsonl", "".join(line + "\n" for line in lines))

    def metrics(self) -> list[dict]:
        """All rows logged so far."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text().splitlines():
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
        except OSError as error:
            raise DiskFull(f"no room to write {self.folder}/metrics.jsonl; the last save is untouched") from error
        for listener in self.listeners:
            listener.log(step, row)

    def save(self, step: int, method, optimizer, extra: dict) -> None:
        if is_main():
            checkpoint.save(
                self.last,
                step=step,
                method=method.state_dict(),
                optimizer=optimizer.state_dict(),
                config=self.identity,
                extra=extra,
            )

    def write(self, name: str, data: bytes | str) -> None:
        if is_main():
            checkpoint.write(self.folder / name, data)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()


def _plain(value) -> float | int | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no nan
    return round(value, 6) if isinstance(value, float) else value


class TensorBoard:
    """Figures as scalars, in the run's folder."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def log(self, step: int, row: dict) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class ProgressBar:
    """Loss, images a second and time to go. A bar on a terminal; elsewhere a line every half minute."""

    def __init__(self, steps: int, start: int, title: str):
        self.steps, self.live = steps, sys.stderr.isatty()
        self.started = self.said = time.monotonic()
        self.start = start
        if self.live:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn(title),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                refresh_per_second=4,
            )
            self.bar.start()
            self.task = self.bar.add_task(title, total=steps, completed=start, figures="")

    def log(self, step: int, row: dict) -> None:
        names = {"loss": "loss {:.3f}", "images_per_second": "{:.0f} images/s", "knn": "kNN {:.1f} %"}
        text = "  ".join(form.format(row[n]) for n, form in names.items() if isinstance(row.get(n), (int, float)))
        now = time.monotonic()
        if self.live:
            if "loss" in row:
                self.bar.update(self.task, completed=step, figures=text)
        elif "loss" in row and (now - self.said > 30 or step == self.steps):
            self.said = now
            left = (now - self.started) / max(step - self.start, 1) * (self.steps - step)
            print(f"step {step}/{self.steps}  {text}  {left / 60:.1f} min to go", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self.live:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.live:
            self.bar.stop()


@contextlib.contextmanager
def counting(title: str):
    """A bar for work that counts up before a run starts.  Yields progress(done, total); shows nothing if never called."""
    from rich.progress import Progress

    bar = Progress(disable=not (sys.stderr.isatty() and is_main()))
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
