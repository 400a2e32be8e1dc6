"""The progress of a study on the terminal: a bar, and a line for each trial that ends and each new one of the front."""
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from optuna.trial import TrialState

from nas.results import format_figures, front_of
from nas.search_config import SearchConfig
from nas.trial_record import TrialRecord


class Status(NamedTuple):
    """What of a trial is shown when it changes."""

    rungs: int
    state: TrialState
    expired_leases: int


class ProgressView:
    def __init__(self, config: SearchConfig, study: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.config, self.console = config, Console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            TextColumn(study), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn(),
            console=self.console, disable=not sys.stderr.isatty(), speed_estimate_period=3600,
        )
        self.task = self.bar.add_task(study, total=config.trials, status="")
        self.bar.start()
        self.shown: dict[int, Status] | None = None  # None: what was there before is not shown
        self.front: set[int] = set()

    def print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def show_plan(self, plan: dict | None) -> bool:
        """Print a study's plan (nas/plan.py).  → is it there already?"""
        for line in (plan or {}).get("text", ()):
            self.print(line)
        return plan is not None

    def show_supernet(self, metrics: Path) -> None:
        """How far the training is that trials wait for."""
        rows = metrics.read_text(errors="replace").splitlines() if metrics.exists() else []
        epoch = re.search(r'"epoch": ([0-9.]+)', rows[-1]) if rows else None
        if epoch:
            self.bar.update(self.task, status=f"supernet: {float(epoch[1]):.1f} epochs")

    def show(self, records: Sequence[TrialRecord]) -> None:
        first, before = self.shown is None, self.shown or {}
        self.shown = {r.number: Status(len(r.rungs), r.state, r.expired_leases) for r in records}
        for r in records if not first else ():
            if before.get(r.number) != self.shown[r.number] and (text := self._change(r, before.get(r.number))):
                self.print(f"trial {r.number}: {text}")
        front = front_of(records, self.config)
        for r in front if not first else ():
            if r.number not in self.front:
                self.print(f"front: trial {r.number}: {format_figures(r, list(self.config.objectives))}")
        self.front = {r.number for r in front}
        running = sum(r.state == TrialState.RUNNING for r in records)
        evaluated = sum(bool(r.rungs) or r.state == TrialState.FAIL for r in records)
        self.bar.update(self.task, completed=evaluated, status=f"{running} running, {len(front)} on the front")

    def _change(self, r: TrialRecord, before: Status | None) -> str | None:
        if r.state == TrialState.FAIL:
            return f"failed: {r.reason}"
        if r.rejected and r.initial:
            return f"rejected: {r.reason}"
        if r.rungs and (before is None or len(r.rungs) > before.rungs):
            return f"{r.rungs[-1].epochs:.3g} epochs: {format_figures(r, list(self.config.objectives))}"
        if before is not None and r.expired_leases > before.expired_leases:
            return "its worker was lost; another resumes it"
        return None

    def close(self) -> None:
        self.bar.stop()
