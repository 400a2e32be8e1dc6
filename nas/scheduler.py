"""Who trains what next, and how far: asynchronous successive halving over a ledger that any number of workers share.

Li et al. 2020, arXiv 1810.05934, for one objective or several: a trial pauses at every rung, and is sent on when it is among
the best 1/factor of all that have reached its rung, best by non-dominated sorting where there are several objectives. No
worker ever waits for another, and a promotion goes on from the trial's own checkpoint: it costs only the difference.
"""
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from optuna.trial import TrialState

from core import signals
from core.errors import RunError, Stopped
from nas import sampler
from nas.entry import Entry, Lost, asked
from nas.ledger import Ledger, Watch
from nas.pareto import order
from nas.retry import StorageError
from nas.sampler import Known
from nas.settings import COSTS

REFUSED = 10  # trials in a row, of `sampler.REDRAWN` proposals each: the limits leave nothing
ONE_TOO_MANY = "one too many: another worker was first"
WAIT = -1  # no trial's id: there is nothing to do yet
HOPELESS = 5  # failures and not one success, after which the study itself is at fault


@dataclass(frozen=True)
class Halving:
    rungs: tuple[float, ...]  # epochs, rising; the last is the whole training
    factor: int = 3
    finalists: int = 0  # of all trials, how many leave the first rung, once all are there; 0: 1/factor, at any time

    @staticmethod
    def of(epochs: float, count: int, factor: int) -> "Halving":
        """`count` rungs up to `epochs`, each `factor` times the one before."""
        return Halving(tuple(epochs / factor**i for i in reversed(range(count))), factor)

    def promotable(self, entries: Sequence[Entry], signs: Sequence[float], trials: int = 0) -> Entry | None:
        """The best paused trial that deserves more, of the highest rung first.  signs: −1 where more is better; trials: how
        many there will be.

        Never more than 1/factor of those that reached a rung: of the paper's rule alone, which also replaces early mistakes,
        a third more epochs came than of the synchronous one (experiments/tabular).
        """
        for rung in reversed(range(len(self.rungs) - 1)):
            there = [e for e in entries if len(e.rungs) > rung]
            most = len(there) // self.factor
            if self.finalists and rung == 0:
                missing = trials - sum(bool(e.rungs) or e.state == TrialState.FAIL for e in entries)
                most = 0 if missing > 0 else self.finalists
            if sum(e.goal > rung + 1 for e in there) >= most:
                continue
            values = np.array([e.rungs[rung]["values"] for e in there]) * np.array(signs)
            for i in order(values)[:most]:
                if there[i].paused and len(there[i].rungs) == rung + 1:
                    return there[i]
        return None


@dataclass(frozen=True)
class Plan:
    """The numbers of a search."""

    trials: int  # to be trained; what limits refuse does not count
    halving: Halving
    objectives: dict[str, str]  # name → "maximize" or "minimize"
    limits: dict[str, float] = field(default_factory=dict)  # a cost's name → the most that is allowed
    sampler: str = "tpe"
    seed: int = 0
    interval: float = 60.0  # seconds: twice that without a sign of life, and a worker is lost
    candidates: int = 1  # proposals a trial, of which the evaluator's proxy takes the best

    @property
    def signs(self) -> list[float]:
        return [-1.0 if d == "maximize" else 1.0 for d in self.objectives.values()]


class Evaluator(Protocol):
    """How choices are made and judged."""

    opening: dict | None  # parameters of the first choice, where the space names them

    def choose(self, trial) -> object:
        """An Optuna trial → a choice, with `.hash` and `.json`. What it or `costs` raises means that it cannot be built."""

    def costs(self, choice) -> dict[str, float]:
        """What is known before training, by name."""

    def best(self, choices: list) -> int:
        """Which of some choices a proxy would train; asked where there are several candidates a trial."""

    def advance(self, choice, entry: Entry, epochs: float, beat: Callable[[], None]) -> dict[str, float]:
        """Train on to so many epochs; figures by name.  Calls beat at every sign of progress. A pure function of the choice
        and the epochs, wherever it was broken off before.
        """


class Beat:
    """A sign of life, at most every third of an interval. Raises Stopped after a signal, Lost where the trial is another's."""

    def __init__(self, ledger: Ledger, id: int, interval: float, stopped: Callable[[], bool]):
        self.ledger, self.id, self.interval, self.stopped, self.at = ledger, id, interval, stopped, time.monotonic()

    def __call__(self) -> None:
        if self.stopped():
            raise Stopped("stopped by a signal; the same command goes on")
        if time.monotonic() - self.at > self.interval / 3:
            self.ledger.beat(self.id)
            self.at = time.monotonic()


class Worker:
    """Takes jobs until there are none."""

    def __init__(self, ledger: Ledger, plan: Plan, evaluator: Evaluator):
        self.ledger, self.plan, self.evaluator = ledger, plan, evaluator
        self.watch, self.stop, self.exhausted = Watch(ledger, plan.interval), False, False
        ledger.storage.stopping = self.stopped

    def run(self) -> None:
        """Raises Stopped after a signal that asks to stop, RunError where nothing succeeds, StorageError where the storage of
        the study fails for long.
        """
        with signals.deferred():
            self._run()
            signals.answered()  # it came when all was done

    def _run(self) -> None:
        while True:
            if self.stopped():
                raise Stopped("stopped by a signal; the same command goes on")
            self.watch.look()
            job = self.next()
            if job is None:
                return
            if job == WAIT:
                time.sleep(min(1.0, self.plan.interval / 4))
                continue
            self.do(job)

    def stopped(self) -> bool:
        return self.stop or signals.requested() is not None

    def next(self) -> int | None:
        """A trial that is ours to work on; WAIT while others may yet free one; None at the end."""
        ledger, plan, entries = self.ledger, self.plan, self.ledger.entries()
        for e in entries:
            if (e.given_back or len(e.rungs) == len(plan.halving.rungs)) and e.state == TrialState.WAITING and ledger.claim(e):
                return e.id
        best = plan.halving.promotable(entries, plan.signs, 0 if self.exhausted else plan.trials)
        if best is not None:
            return best.id if ledger.claim(best, goal=len(best.rungs) + 1) else WAIT
        if not self.exhausted and sum(not e.refused for e in entries) < plan.trials:
            id = ledger.begin()
            mine = ledger.entry(id).number
            if sum(not e.refused for e in ledger.entries() if e.number < mine) < plan.trials:
                return id
            ledger.refuse(id, ONE_TOO_MANY, {})
            return WAIT
        if any(e.state == TrialState.RUNNING for e in entries):
            return WAIT
        closed = [ledger.close(e) for e in entries if e.paused]
        return None if all(closed) else WAIT  # one that another worker took is looked at again

    def do(self, id: int) -> None:
        """Propose where nothing is chosen yet; train to the rung that is due; pause or complete."""
        ledger, plan = self.ledger, self.plan
        try:
            if ledger.entry(id).choice is None and not self.propose(id):
                return
            entry = ledger.entry(id)
            ledger.show(entry)
            if self.refused(entry):
                return
            rungs, goal = list(entry.rungs), max(1, entry.goal)
            ledger.set(id, "goal", goal)
            choice, beat = entry.choice, Beat(ledger, id, plan.interval, self.stopped)
            for epochs in plan.halving.rungs[len(rungs) : goal]:
                figures = self.evaluator.advance(choice, ledger.entry(id), epochs, beat)
                values = [float((figures | entry.costs)[name]) for name in plan.objectives]
                if not np.isfinite(values).all():
                    raise RunError(f"objectives that are no numbers: {dict(zip(plan.objectives, values, strict=True))}")
                rungs.append({"epochs": epochs, "values": values, "figures": figures})
                ledger.reach(id, rungs)
            if len(rungs) == len(plan.halving.rungs):
                ledger.complete(id, rungs[-1]["values"])
            else:
                ledger.pause(id)
        except Lost:
            return
        except StorageError:  # none of the trial's: it stays running in the storage, until another worker takes it
            raise
        except Stopped:
            with contextlib.suppress(StorageError):
                ledger.give_back(id)
            raise
        except Exception as error:  # one trial's failure is its own: memory, divergence, collapse, a shape that does not fit
            with contextlib.suppress(Lost):
                ledger.fail(id, str(error) if isinstance(error, sampler.Unbuildable) else line(error))
            self._hopeful()

    def propose(self, id: int) -> bool:
        """Choose for this trial what no other has; False where nothing is left."""
        ledger, plan, again, judge = self.ledger, self.plan, 0, self.evaluator
        beat = Beat(ledger, id, plan.interval, self.stopped)

        def built(make: Callable) -> Callable:
            def make_or_say(of):
                beat()  # dozens may be looked at
                try:
                    return make(of)
                except Exception as error:  # whatever the space, timm or torch raise for a point
                    raise sampler.Unbuildable(line(error)) from error

            return make_or_say

        while True:
            entries = ledger.entries()
            others = known([e for e in entries if e.id != id], plan)
            number, directions = ledger.entry(id).number, list(plan.objectives.values())
            try:
                if nearest := self.beyond([e for e in entries if e.id != id]):
                    raise sampler.Exhausted(nearest)
                p = sampler.propose(
                    plan.sampler, built(judge.choose), built(judge.costs), plan.limits, others, directions, plan.seed, number,
                    again, plan.candidates, judge.best if plan.candidates > 1 else None, judge.opening,
                )
            except sampler.Exhausted as end:
                self.exhausted = True
                ledger.refuse(id, str(end), {})
                return False
            except sampler.Unbuildable as error:
                ledger.set(id, "broken", [b.json for b in error.broken])
                raise
            if p.broken:
                ledger.set(id, "broken", [b.json for b in p.broken])
            said = {"hash": p.choice.hash, "params": p.params, "distributions": sampler.json_of(p.distributions)}
            ledger.choose(id, p.choice.json | said | {"drawn": p.drawn, "opening": p.opening}, p.costs)
            if all(e.hash != p.choice.hash for e in ledger.entries() if e.id != id):
                return True
            again += 1  # another worker chose the same in this moment: both look again

    def beyond(self, entries: Sequence[Entry]) -> str | None:
        """The reason to give up: nothing kept within limits for long."""
        last, limits = [e for e in entries if e.choice][-REFUSED:], self.plan.limits
        if len(last) < REFUSED or not all(e.refused for e in last):
            return None
        over = [max(e.costs.get(name, 0.0) / max(most, 1e-9) for name, most in limits.items()) for e in last]
        nearest = last[int(np.argmin(over))].costs
        found = ", ".join(f"{name} {nearest[name]:.4g}" for name in limits if name in nearest)
        said = ",".join(f"{name}:{most:g}" for name, most in limits.items())
        return f"limit={said}: the last {REFUSED} trials were all beyond it, the nearest with {found}"

    def refused(self, entry: Entry) -> bool:
        """Does it exceed a limit?  It is told so, and not trained."""
        over = sampler.excess(entry.costs, self.plan.limits)
        said = [f"{name} {entry.costs[name]:.4g} > {self.plan.limits[name]:g}" for name, by in over.items() if by > 0]
        if said:
            begins = "the space begins beyond the limits: " if entry.opening else ""
            self.ledger.refuse(entry.id, begins + ", ".join(said), over)
        return bool(said)

    def _hopeful(self) -> None:
        entries = self.ledger.entries()
        failed = [e for e in entries if e.state == TrialState.FAIL]
        if len(failed) >= HOPELESS and not any(e.rungs for e in entries):
            raise RunError(f"the first {len(failed)} trials all failed, the last one so: {failed[-1].reason}")


def line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def known(entries: Sequence[Entry], plan: Plan) -> list[Known]:
    """What a sampler may learn from: the last figures of each trial; of a refused one, by how much it exceeds limits; what
    could not be built.

    Costs as logarithms: else, of encoders whose costs are a hundredfold apart, all but the cheapest look alike.
    """
    found = []
    for e in entries:
        found += [Known(e.number, None, *asked(said), None) for said in e.broken]
        if e.choice is None:
            continue
        values = e.rungs[-1]["values"] if e.rungs else None
        if values is not None:
            values = [math.log(max(v, 1e-9)) if name in COSTS else v for name, v in zip(plan.objectives, values, strict=True)]
        pending = values is None and e.state in (TrialState.RUNNING, TrialState.WAITING)
        over = sampler.excess(e.costs, plan.limits)
        found.append(Known(e.number, e.hash, *e.asked, values, over, pending))
    return found
