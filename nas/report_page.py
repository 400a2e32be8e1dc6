"""The page of a study: which trial won, the front, luck, how the front grew, what failed, and how it was measured."""
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from core import measured
from core.duration import spoken
from core.machine import provenance_of
from core.page import Chart, Page, Section, Table, Tile, optional, signed
from core.recipe import text
from nas import noise_report
from nas.budget import spent
from nas.pictures import front_figure, history_figure
from nas.posterior import Posterior
from nas.results import complete, describe, end_reasons, front_of, total_epochs
from nas.search_config import SearchConfig
from nas.settings import COSTS, OBJECTIVES
from nas.trial_record import TrialRecord

PRINTED = ("The front", "Deployment", "Luck", "What was left out")  # sections that a terminal shows
QUESTIONS = {"The front": "the front", "Deployment": "deployment", "Luck": "luck", "How it grew": "how it grew",
             "What was left out": "left out", measured.HEADING: "how it was measured"}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What a study has so far.

    posterior: None of too few figures; plan: of nas/plan.py; settings: of the study; deployment: of nas/device_report.py
    """

    name: str
    records: Sequence[TrialRecord]
    replicates: Sequence[TrialRecord]
    config: SearchConfig
    posterior: Posterior | None
    winner: TrialRecord | None
    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    deployment: Sequence[str] = ()


def page(found: Study) -> Page:
    records, config = found.records, found.config
    noise = records, found.replicates, config, found.posterior
    luck, left_out = noise_report.blocks(*noise), reasons(records)
    plan = [" ".join(found.plan["text"])] if found.plan.get("text") else []
    made = provenance_of([config.seed], ("optuna", "torch", "timm"))
    settings = [[name, text(value)] for name, value in found.settings.items()]
    folded = Table(["setting", "value"], settings, slice(0), folded=f"The {len(settings)} settings that make it this study")
    sections: list[Section] = [
        ("The front", [*plan, *table(front_of(records, config), [*config.objectives]), *_charts("the front", _front, found)]),
        *([("Deployment", [*found.deployment])] if found.deployment else []),
        *([("Luck", luck)] if luck else []),
        *([("How it grew", grown)] if (grown := _charts("how the front grew", _history, found)) else []),
        *([("What was left out", left_out)] if left_out else []),
        measured.section(made, folded),
    ]
    return Page(found.name, counts(records, config), _tiles(found), sections, noise_report.verdict(*noise), QUESTIONS)


def _charts(what: str, draw, found: Study) -> list[Chart]:
    if not complete(found.records):
        return []
    return [chart for _, charts in optional(what, lambda: [("", [draw(found)])]) for chart in charts]


def _front(found: Study) -> Chart:
    about = "Every trained trial, larger the longer it was trained, and the front of those trained to the end"
    return Chart("front.svg", front_figure(found.records, found.config), about)


def _history(found: Study) -> Chart:
    return Chart("history.svg", history_figure(found.records, found.config), "How the front grew as trials ended")


def counts(records: Sequence[TrialRecord], config: SearchConfig) -> str:
    count = Counter(r.state for r in records)
    trained, rejected = sum(bool(r.rungs) for r in records), sum(r.rejected for r in records)
    full, epochs = config.halving.rungs[-1], total_epochs(records)
    share = f" ({epochs / (trained * full):.0%} of training each to the end)" if trained else ""
    time = f", {spoken(seconds)} of training" if (seconds := spent(records)) >= 60 else ""
    return (f"{trained} trained, {count[TrialState.COMPLETE]} of them to the end of {full:g} epochs, {rejected} rejected "
            f"before training, {count[TrialState.FAIL]} failed; {epochs:.4g} epochs in all{share}{time}")


def reasons(records: Sequence[TrialRecord]) -> list[str]:
    """What ended, failed, or could not be built, and why."""
    failed = Counter(r.reason for r in records if r.state == TrialState.FAIL)
    out = [f"ended: {reason}" for reason in end_reasons(records)]
    out += [f"failed: {reason} ({n} trials)" for reason, n in failed.items()]
    out += [f"trial {r.number} was rejected: {r.reason}" for r in records if r.rejected and r.initial]
    invalid = [invalid.reason for r in records for invalid in r.invalid]
    return out + ([f"{len(invalid)} that were sampled could not be built, the last one: {invalid[-1]}"] if invalid else [])


def table(front: Sequence[TrialRecord], objectives: Sequence[str]) -> list:
    """The front's objectives, other costs and encoders."""
    if not front:
        return []
    names = [*objectives, *(n for n in COSTS if n not in objectives and any(n in r.costs for r in front))]
    head = ["trial", *(f"{n} ({OBJECTIVES[n][1]})" if OBJECTIVES[n][1] else n for n in names), "encoder"]
    rows = [[str(r.number), *(f"{r.figures[n]:.4g}" if n in r.figures else "" for n in names), describe(r.candidate)]
            for r in front]
    note = "The front: nothing trained to the end is better in every objective. Accuracy is on validation images."
    return [Table(head, rows, slice(1, len(head) - 1)), note]


def _tiles(found: Study) -> list[Tile]:
    """The winner by the first objective, its lead over the start, and its cost; nothing without a winner."""
    winner, expected = found.winner, found.posterior
    if winner is None:
        return []
    name = next(iter(found.config.objectives))
    direction, unit, _ = OBJECTIVES[name]
    own, value, beneath = winner.figures[name], winner.figures[name], ["of one training"]
    if known := expected is not None and expected.objective == name:
        value = expected.mean(winner)
        beneath = [f"expected ± {expected.interval(winner):.2g}", f"of its own training {own:.4g}"]
    tiles = [Tile(f"{name}, trial {winner.number}", f"{value:.4g}", beneath, unit)]
    start = next((r for r in found.records if r.initial and r.rungs and name in r.figures), None)
    if start is not None:
        before = expected.mean(start) if known and start.number in expected.rows else start.figures[name]
        lead = value - before if direction == "maximize" else before - value
        tiles.append(Tile("ahead of the start", signed(lead, "+.3g"), [f"trial {start.number}: {before:.4g}"],
                          "points" if unit == "%" else unit))
    cost = next((n for n in (*list(found.config.objectives)[1:], *COSTS) if n in winner.costs), None)
    if cost:
        beneath = [f"the start {start.costs[cost]:.4g}"] if start is not None and cost in start.costs else []
        tiles.append(Tile(cost, f"{winner.costs[cost]:.4g}", beneath, OBJECTIVES[cost][1]))
    ended, trained = len(complete(found.records)), sum(bool(r.rungs) for r in found.records)
    return [*tiles, Tile("trained to the end", f"{ended}", [f"of {trained} that were trained"], "trials")][:3]
