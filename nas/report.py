"""How a study stands: lines and a bar while it runs, then a table, pictures and the front's encoders.

    uv run python -m nas.report --study fashion

leaves in runs/nas/<study>: report.md, results.json, front.png, history.png, front/<trial>/encoder.safetensors, and the
best by the first objective as encoder.safetensors.
"""
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from optuna.trial import TrialState

from core import checkpoint, cli
from core.errors import RunError
from core.figures import COLOURS, canvas, drawn, logarithmic
from core.machine import code, hardware, versions
from nas import study
from nas.entry import Entry, run_folders
from nas.ledger import Ledger
from nas.pareto import front, hypervolume
from nas.scheduler import ONE_TOO_MANY, Plan
from nas.settings import COSTS, OBJECTIVES
from nas.storage import folder

FILE = "encoder.safetensors"


def finished(entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in entries if e.state == TrialState.COMPLETE]


def best(entries: Sequence[Entry], plan: Plan) -> list[Entry]:
    """The front among those trained to the end, best first by the first objective."""
    there = finished(entries)
    values = np.array([e.rungs[-1]["values"] for e in there]) * np.array(plan.signs) if there else np.zeros((0, 1))
    return sorted((there[i] for i in front(values)), key=lambda e: plan.signs[0] * e.rungs[-1]["values"][0])


def figures(e: Entry) -> dict[str, float]:
    return e.costs | (e.rungs[-1]["figures"] if e.rungs else {})


def told(e: Entry, names: Sequence[str]) -> str:
    """"knn 85.1 %, macs 3.2 M"."""
    found = figures(e)
    return ", ".join(f"{name} {found[name]:.4g} {OBJECTIVES[name][1]}".strip() for name in names if name in found)


class View:
    """Progress of a study, on a terminal a bar, and a line for each trial that ends and each new best one."""

    def __init__(self, plan: Plan, study: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.plan, self.names, self.console = plan, list(plan.objectives), Console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            TextColumn(study), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[stand]}"), TimeRemainingColumn(),
            console=self.console, disable=not sys.stderr.isatty(), speed_estimate_period=3600,
        )
        self.task = self.bar.add_task(study, total=plan.trials, stand="")
        self.bar.start()
        self.seen: dict[int, tuple] | None = None  # of what was there before, nothing is told
        self.front: set[int] = set()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def wait(self, metrics: Path) -> None:
        """How far the training is that trials wait for."""
        rows = metrics.read_text(errors="replace").splitlines() if metrics.exists() else []
        found = re.search(r'"epoch": ([0-9.]+)', rows[-1]) if rows else None
        if found:
            self.bar.update(self.task, stand=f"supernet: {float(found[1]):.1f} epochs")

    def show(self, entries: Sequence[Entry]) -> None:
        first = self.seen is None
        self.seen = self.seen or {}
        for e in entries:
            state = len(e.rungs), e.state, e.lost
            if self.seen.get(e.number) != state:
                before, self.seen[e.number] = self.seen.get(e.number), state
                if not first:
                    self._tell(e, before)
        ahead = best(entries, self.plan)
        for e in ahead if not first else ():
            if e.number not in self.front:
                self.say(f"front: trial {e.number}: {told(e, self.names)}")
        self.front = {e.number for e in ahead}
        running = sum(e.state == TrialState.RUNNING for e in entries)
        judged = sum(bool(e.rungs) or e.state == TrialState.FAIL for e in entries)
        self.bar.update(self.task, completed=judged, stand=f"{running} at work, {len(ahead)} on the front")

    def _tell(self, e: Entry, before: tuple | None) -> None:
        text = None
        if e.state == TrialState.FAIL:
            text = f"failed: {e.reason}"
        elif e.refused and e.opening:
            text = f"refused: {e.reason}"
        elif e.rungs and (before is None or len(e.rungs) > before[0]):
            text = f"{e.rungs[-1]['epochs']:.3g} epochs: {told(e, self.names)}"
        elif before is not None and e.lost > before[2]:
            text = "its worker was lost; it is given back"
        if text:
            self.say(f"trial {e.number}: {text}")

    def close(self) -> None:
        self.bar.stop()


# ---------------------------------------------------------------------------------------------------------------- report


def write(book: Ledger, plan: Plan, study: str) -> None:
    """Table, pictures and encoders in the study's folder; where they are, on the terminal."""
    entries, place = book.entries(), folder(study)
    ahead = best(entries, plan)
    place.mkdir(parents=True, exist_ok=True)
    here = gather(place, study, ahead)
    kept = {
        "study": study, "settings": book.settings, "trials": [row(e) for e in entries],
        "front": [e.number for e in ahead], "epochs": epochs(entries), "hardware": hardware(),
        "versions": versions(("optuna", "torch", "timm")), "code": code(),
    }
    checkpoint.write(place / "results.json", json.dumps(kept, indent=1) + "\n")
    text = "\n".join(lines(entries, plan, study))
    if finished(entries):
        checkpoint.write(place / "front.png", picture(entries, plan))
        checkpoint.write(place / "history.png", history(entries, plan))
        text += "\n![the front](front.png)\n![how it grew](history.png)\n"
    checkpoint.write(place / "report.md", text)
    print(text.split("\n![")[0])
    print(f"report: {place / 'report.md'}")
    elsewhere = [str(e.number) for e in ahead if e.number not in here]
    if elsewhere and book.settings["strategy"] != "proxy":  # which trains none
        print(f"not on this machine: the front's encoders of trials {', '.join(elsewhere)}")
    if here:
        print(f"encoders: {place / 'front'}")


def gather(place: Path, study: str, ahead: Sequence[Entry]) -> list[int]:
    """The front's encoders, and the best one, into the study's folder, and none besides.  → numbers of those that are here"""
    here, kept = [], {f"{e.number:05d}" for e in ahead}
    for old in (place / "front").glob("*"):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
    for e in ahead:
        target = place / "front" / f"{e.number:05d}" / FILE
        source = next((run / FILE for run in run_folders(study, e) if (run / FILE).exists()), None)
        if source:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        if target.exists():
            here.append(e.number)
    if ahead and ahead[0].number in here:
        shutil.copy2(place / "front" / f"{ahead[0].number:05d}" / FILE, place / FILE)
    else:
        (place / FILE).unlink(missing_ok=True)
    return here


def row(e: Entry) -> dict:
    return {
        "number": e.number, "state": e.state.name, "params": e.trial.params, "costs": e.costs, "rungs": e.rungs,
        "hash": e.hash, "reason": e.reason, "lost": e.lost, "encoder": e.choice and e.choice["encoder"],
    }


def epochs(entries: Sequence[Entry]) -> float:
    """Trained in all."""
    return sum(e.rungs[-1]["epochs"] for e in entries if e.rungs)


def lines(entries: Sequence[Entry], plan: Plan, study: str) -> list[str]:
    ahead, count = best(entries, plan), {s: sum(e.state == s for e in entries) for s in TrialState}
    full = plan.halving.rungs[-1]
    refused, trained = sum(e.refused for e in entries), sum(bool(e.rungs) for e in entries)
    names = [*plan.objectives, *(n for n in COSTS if n not in plan.objectives and any(n in e.costs for e in ahead))]
    out = [
        f"# {study}", "",
        f"{trained} trained, {count[TrialState.COMPLETE]} of them to the end of {full:g} epochs, {refused} refused before "
        f"training, {count[TrialState.FAIL]} failed; {epochs(entries):.4g} epochs in all"
        + (f" ({epochs(entries) / (trained * full):.0%} of training each to the end)." if trained else "."), "",
    ]
    if ahead:
        units = [f"{n} ({OBJECTIVES[n][1]})" if OBJECTIVES[n][1] else n for n in names]
        out += [f"| trial | {' | '.join(units)} | encoder |", "|---" * (len(names) + 2) + "|"]
        for e in ahead:
            cells = [f"{figures(e)[n]:.4g}" if n in figures(e) else "" for n in names]
            out.append(f"| {e.number} | {' | '.join(cells)} | {shape(e.choice)} |")
        out += ["", "The front: nothing trained to the end is better in every objective. Accuracy is on validation images.", ""]
    failed = Counter(e.reason for e in entries if e.state == TrialState.FAIL)
    out += [f"ended: {reason}" for reason in ends(entries)]
    out += [f"failed: {reason} ({n} trials)" for reason, n in failed.items()]
    out += [f"trial {e.number} was refused: {e.reason}" for e in entries if e.refused and e.opening]
    broken = [said["reason"] for e in entries for said in e.broken]
    out += [f"{len(broken)} that were drawn could not be built, the last one: {broken[-1]}"] if broken else []
    return out


def ends(entries: Sequence[Entry]) -> list[str]:
    """Why no more was proposed, each reason once."""
    return [*dict.fromkeys(e.reason for e in entries if e.refused and not e.choice and e.reason != ONE_TOO_MANY)]


def shape(choice: dict) -> str:
    """A line that says what the encoder is."""
    spec = choice["encoder"]
    said = [spec["name"], f"{spec['image_size']} px", *(f"{k}={v}" for k, v in spec["arguments"].items())]
    return " ".join(said + [f"{k}={v}" for k, v in choice["words"].items()]).replace("'", "").replace("|", "/")


@drawn
def picture(entries: Sequence[Entry], plan: Plan):
    """The first two objectives (multiply-adds beside a single one): every trial that was trained, by how far; the front of
    those trained to the end as a line.
    """
    first, second = [*plan.objectives, "macs"][:2]
    figure, ((axis,),) = canvas(6, 4.2)
    trained = [e for e in entries if e.rungs]
    points = {e.number: (figures(e)[second], e.rungs[-1]["values"][0]) for e in trained}
    for k, rung in enumerate(plan.halving.rungs):
        there = [points[e.number] for e in trained if len(e.rungs) == k + 1]
        axis.scatter(*zip(*there, strict=True) if there else ([], []), s=14 + 10 * k, alpha=0.7,
                     color=COLOURS[k % len(COLOURS)], label=f"{rung:.3g} epochs")
    ends = np.array([points[e.number] for e in finished(entries)])
    signs = [-1.0 if OBJECTIVES[name][0] == "maximize" else 1.0 for name in (second, first)]
    ahead = ends[sorted(front(ends * signs), key=lambda i: ends[i, 0])]
    axis.plot(*ahead.T, "k-", lw=1, zorder=0, label="front")
    if min(x for x, _ in points.values()) > 0:
        logarithmic(axis, "x")
    axis.set(ylabel=_named(first), xlabel=_named(second))
    axis.legend(fontsize=8)
    return figure


@drawn
def history(entries: Sequence[Entry], plan: Plan):
    """The front's hypervolume (or the best value) as trials end: 0 at a tenth beyond the worst values, 1 at the best ones."""
    there = sorted(finished(entries), key=lambda e: (e.trial.datetime_complete, e.number))
    values = np.array([e.rungs[-1]["values"] for e in there]) * np.array(plan.signs)
    low, high = values.min(0), values.max(0)
    reference = high + 0.1 * (high - low) + 1e-9
    whole = float(np.prod(reference - low))
    grown = [hypervolume(values[: i + 1], reference) / whole for i in range(len(values))]
    figure, ((axis,),) = canvas(6, 3.4)
    axis.step(range(1, len(grown) + 1), grown, where="post", color=COLOURS[0])
    axis.set(xlabel="trials trained to the end", ylabel=grown_label(plan), ylim=(0, 1))
    return figure


def grown_label(plan: Plan) -> str:
    """What the curve of `history` shows, for a reader who has not heard of hypervolume."""
    if len(plan.objectives) == 1:
        return f"best {OBJECTIVES[next(iter(plan.objectives))][2]} so far, 0 to 1\n(1: the best of all trials)"
    return "hypervolume of the front, 0 to 1\n(1: one encoder that is best in every objective)"


def _named(name: str) -> str:
    _, unit, meaning = OBJECTIVES[name]
    return f"{meaning}{f', {unit}' if unit else ''}"


def main() -> int:
    def again(settings) -> int:
        """Of the study as it was begun: no word but its name, and where it is kept, needs saying."""
        try:
            book = Ledger(settings.study, settings.storage)
            begun = SimpleNamespace(**(cli.flat(settings) | (book.settings or {})))
            write(book, study.plan(begun), settings.study)
        except RunError as error:  # such as a storage that no longer answers
            print(f"error: {error}", file=sys.stderr)
            return error.code
        return 0

    return cli.main(study.TOOL, again)


if __name__ == "__main__":
    sys.exit(main())
