"""A worker: which trial it takes next, and how far it trains it, over a store that any number of workers share.

Asynchronous successive halving (nas/halving.py): a trial pauses at every rung and is promoted when it is among the best
1/factor of all that have reached its rung. No worker ever waits for another, and a promotion resumes from the trial's own
checkpoint: it costs only the difference.
"""
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from optuna.trial import TrialState

from core import signals
from core.errors import NotQuantizable, RunError, Stopped
from nas.budget import StudyBudget
from nas.deployment_costs import DeploymentCosts, missing
from nas.halving import measured
from nas.lease import STOPPED, Heartbeat, LeaseMonitor
from nas.observation import AT_LEAST, excess, observations
from nas.posterior import so_far
from nas.proposals import CandidateSource, Exhausted, InvalidCandidate, Proposal, Request, propose
from nas.retry import StorageError
from nas.search_config import ONE_TOO_MANY, SearchConfig
from nas.store import LeaseLost, TrialStore
from nas.trial_record import RungResult, TrialRecord
from nas.verification import Wanted, wanted

MAX_REJECTED = 10  # trials in a row, of `proposals.MAX_REDRAWS` proposals each: nothing is within the limits
MAX_REJECTED_MEASURED = 40  # the same where each trial is one proposal, as its costs take seconds to measure
WAIT = -1  # no trial's id: there is nothing to do yet
MAX_FAILURES = 5  # without one success, after which the study itself is at fault


class Evaluator(CandidateSource, Protocol):
    """Makes candidates, and measures them. Whatever `sample` or `costs` raises means that a candidate cannot be built."""

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        """Train to so many epochs.  → figures by name. Calls heartbeat at every step. A pure function of candidate and epochs,
        wherever it was interrupted before.
        """

    def deployment_costs(self, candidate: dict, heartbeat: Callable[[], None]) -> DeploymentCosts:
        """Those of objectives and limits that take seconds to measure.  Raises NotQuantizable. Called where there are any."""


class CheckedSource:
    """An evaluator's candidates, whose errors all become InvalidCandidate; each is a heartbeat, as dozens may be sampled."""

    def __init__(self, evaluator: Evaluator, heartbeat: Callable[[], None]):
        self.evaluator, self.heartbeat, self.initial = evaluator, heartbeat, evaluator.initial

    def sample(self, trial) -> Any:
        return self._checked(self.evaluator.sample, trial)

    def costs(self, candidate) -> dict[str, float]:
        return self._checked(self.evaluator.costs, candidate)

    def pick_best(self, candidates: list) -> int:
        return self.evaluator.pick_best(candidates)

    def _checked(self, function: Callable, argument):
        self.heartbeat()
        try:
            return function(argument)
        except Exception as error:  # whatever the space, timm or torch raise for a point
            raise InvalidCandidate(one_line(error)) from error


class Worker:
    """Works on trials until there are none."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, store: TrialStore, config: SearchConfig, evaluator: Evaluator):
        self.store, self.config, self.evaluator = store, config, evaluator
        self.monitor, self.stop, self.exhausted = LeaseMonitor(store, config.interval), False, False
        store.storage.should_stop = self.should_stop

    def run(self) -> None:
        """Raises Stopped after a signal that asks to stop, RunError where nothing succeeds, StorageError where the storage of
        the study fails for long.
        """
        with signals.deferred():
            self._run()
            signals.answered()  # it came when all was done

    def _run(self) -> None:
        while True:
            if self.should_stop():
                raise Stopped(STOPPED)
            self.monitor.release_expired()
            id = self.next()
            if id is None:
                return
            if id == WAIT:
                time.sleep(min(1.0, self.config.interval / 4))
                continue
            self.work(id)

    def should_stop(self) -> bool:
        return self.stop or signals.requested() is not None

    # ---- which trial is next

    def next(self) -> int | None:
        """A trial that is ours to work on; WAIT while others may yet leave one; None at the end."""
        store, config, records = self.store, self.config, self.store.records()
        for r in records:
            trained = len(r.rungs) == len(config.halving.rungs)
            if (r.released or trained) and r.state == TrialState.WAITING and store.claim(r):
                return r.id
        allows = self._allowance(records)
        trials = 0 if self.exhausted else config.trials
        promoted = config.halving.next_promotion(records, config.signs, trials, self._values_of(records))
        if promoted is not None and allows(promoted):
            return promoted.id if store.claim(promoted, target_rung=len(promoted.rungs) + 1) else WAIT
        if not self.exhausted and sum(not r.rejected for r in records) < config.trials and allows():
            return self._create()
        if any(r.state == TrialState.RUNNING for r in records):
            return WAIT
        if (best := config.halving.winner_to_train(records, config.signs)) is not None:
            return best.id if store.claim(best, target_rung=len(config.halving.rungs)) else WAIT
        pruned = [store.prune(r) for r in records if r.paused]
        return self._next_replicate() if all(pruned) else WAIT  # one that another worker took is looked at again

    def _allowance(self, records: Sequence[TrialRecord]) -> Callable[..., bool]:
        """`StudyBudget.allows`; of a study without a budget all is allowed."""
        if math.isinf(self.config.budget):
            return lambda record=None: True
        return StudyBudget(records, self.store.replicates(), self.config).allows

    def _values_of(self, records: Sequence[TrialRecord]) -> Callable[[TrialRecord, int], list[float]]:
        """What a trial counts for where trials are promoted: with promote=expected, the expectation in place of the figure."""
        if self.config.promote != "expected":
            return measured
        expectations = cache(partial(so_far, tuple(records), self.config.objectives))  # fitted where a trial may be promoted

        def values(record: TrialRecord, rung: int) -> list[float]:
            known, found = [*measured(record, rung)], expectations()
            if found and record.number in found.rows:
                known[[*self.config.objectives].index(found.objective)] = found.mean(record)
            return known

        return values

    def _next_replicate(self) -> int | None:
        """As `next`, once all trials are over."""
        store, replicates = self.store, self.store.replicates()
        for r in replicates:
            if r.state == TrialState.WAITING and store.claim(r):
                return r.id
        if missing := wanted(store.records(), replicates, self.config):
            return self._create_replicate(missing[0])
        return WAIT if any(r.state in (TrialState.RUNNING, TrialState.WAITING) for r in replicates) else None

    def _create_replicate(self, missing: Wanted) -> int:
        id = self.store.create_replicate(missing.record, missing.seed)
        record = self.store.record(id)
        same = [r for r in self.store.replicates() if r.replicate == record.replicate and r.state != TrialState.PRUNED]
        if min(r.number for r in same) == record.number:
            return id
        self.store.reject(id, ONE_TOO_MANY)
        return WAIT

    def _create(self) -> int:
        id = self.store.create()
        number = self.store.record(id).number
        if sum(not r.rejected for r in self.store.records() if r.number < number) < self.config.trials:
            return id
        self.store.reject(id, ONE_TOO_MANY)
        return WAIT

    # ---- working on it

    def work(self, id: int) -> None:
        """Propose a candidate where the trial has none, train it to its target rung, and end or release the trial."""
        try:
            if self.store.record(id).candidate is None and not self.propose(id):
                return
            record = self.store.record(id)
            if not record.replicate:
                self.store.show_params(record)
                record = self.with_deployment(record)
                if self.reject_beyond_limits(record):
                    return
            self.train(record)
        except LeaseLost:
            return
        except StorageError:  # not the trial's fault: it stays running in the storage, until its lease expires
            raise
        except Stopped:
            with contextlib.suppress(StorageError):
                self.store.release(id)
            raise
        except NotQuantizable as error:  # before training, or after it: with random weights it was
            with contextlib.suppress(LeaseLost):
                (self.store.fail if self.store.record(id).replicate else self.store.reject)(id, str(error))
        except Exception as error:  # one trial's failure is its own: memory, divergence, collapse, a shape that does not fit
            with contextlib.suppress(LeaseLost):
                self.store.fail(id, str(error) if isinstance(error, InvalidCandidate) else one_line(error))
            self._raise_where_all_fail()

    def with_deployment(self, record: TrialRecord) -> TrialRecord:
        """The trial with its costs of deployment, measured once.  Raises NotQuantizable where there is no INT8 version."""
        if not missing(self.config.measured, record.costs):
            return record
        found = self.evaluator.deployment_costs(record.candidate, self.heartbeat(record.id))
        self.store.set_costs(record.id, record.costs | found.costs, found.methods)
        return self.store.record(record.id)

    def train(self, record: TrialRecord) -> None:
        store, ladder = self.store, self.config.halving.rungs
        ladder = ladder[-1:] if record.replicate else ladder
        rungs, target_rung = list(record.rungs), max(1, record.target_rung)
        store.set_target_rung(record.id, target_rung)
        heartbeat, before = self.heartbeat(record.id), record.unfinished
        for epochs in ladder[len(rungs) : target_rung]:
            began = self.clock()
            try:
                figures = self.evaluator.advance(record.candidate, store.record(record.id), epochs, heartbeat)
                values = {name: float((figures | record.costs)[name]) for name in self.config.objectives}
                if not np.isfinite(list(values.values())).all():
                    raise RunError(f"objectives that are no numbers: {values}")
            except (LeaseLost, StorageError):
                raise
            except Exception:  # stopped, or failed: the time was spent
                with contextlib.suppress(StorageError):
                    store.set_unfinished(record.id, before + self.clock() - began)
                raise
            rungs.append(RungResult(epochs, list(values.values()), figures, before + self.clock() - began))
            store.set_rungs(record.id, rungs)
            if before:
                store.set_unfinished(record.id, before := 0.0)
        if len(rungs) == len(ladder):
            store.complete(record.id, rungs[-1].values)
        else:
            store.release(record.id)

    def propose(self, id: int) -> bool:
        """Give the trial a candidate that no other has; False where none is left."""
        store, collisions = self.store, 0
        source = CheckedSource(self.evaluator, self.heartbeat(id))
        while True:
            others = [r for r in store.records() if r.id != id]
            try:
                proposal = self._proposal(store.record(id).number, source, others, collisions)
            except Exhausted as end:
                self.exhausted = True
                store.reject(id, str(end))
                return False
            except InvalidCandidate as error:
                store.set_invalid(id, error.invalid)
                raise
            if proposal.invalid:
                store.set_invalid(id, proposal.invalid)
            candidate, more = proposal.candidate, {"drawn": proposal.draws, "opening": proposal.initial}
            kept = candidate.json | {"hash": candidate.hash} | proposal.params.json | more
            store.set_candidate(id, kept, proposal.costs)
            if all(r.hash != candidate.hash for r in store.records() if r.id != id):
                return True
            collisions += 1  # another worker proposed the same at this moment: both propose again

    def _proposal(self, number: int, source: CheckedSource, others: Sequence[TrialRecord], collisions: int) -> Proposal:
        config = self.config
        if reason := self.hopeless_limits(others):
            raise Exhausted(reason)
        request = Request(
            number, config.sampler, config.objectives, config.limits, config.seed, collisions, config.candidates, config.least
        )
        return propose(source, request, observations(others, config, self.store.replicates()))

    def heartbeat(self, id: int) -> Heartbeat:
        return Heartbeat(self.store, id, self.config.interval, self.should_stop)

    # ---- limits and failures

    def hopeless_limits(self, records: Sequence[TrialRecord]) -> str | None:
        """The reason to end the study, where many trials in a row were all rejected."""
        config = self.config
        limits = config.limits
        count = MAX_REJECTED_MEASURED if missing(config.measured, {}) else MAX_REJECTED
        last = [r for r in records if r.candidate][-count:]
        if len(last) < count or not all(r.rejected for r in last):
            return None
        if not any(by > 0 for r in last for by in excess(r.costs, limits, config.least).values()):
            return f"the last {count} trials were all rejected, the last one so: {last[-1].reason}"

        def farthest(record: TrialRecord) -> float:
            """How far the worst cost is from its limits, as a ratio."""
            over = [record.costs.get(name, 0.0) / max(most, 1e-9) for name, most in limits.items()]
            return max([*over, *(low / max(record.costs.get(name, low), 1e-9) for name, low in config.least.items())])

        nearest = min(last, key=farthest).costs
        costs = ", ".join(f"{name} {nearest[name]:.4g}" for name in limits if name in nearest)
        text = config.limits_set_by or "limit=" + ",".join(f"{name}:{most:g}" for name, most in limits.items())
        return f"{text}: the last {count} trials were all beyond it, the nearest with {costs}"

    def reject_beyond_limits(self, record: TrialRecord) -> bool:
        """End a trial that exceeds a limit before any training; the sampler learns by how much."""
        config, costs = self.config, record.costs
        over = excess(costs, config.limits, config.least)
        beyond = [f"{name} {costs[name]:.4g} > {most:g}" for name, most in config.limits.items() if over[name] > 0]
        beyond += [f"{name} {costs[name]:.4g} < {low:g}" for name, low in config.least.items() if over[f"{name}{AT_LEAST}"] > 0]
        if beyond:
            prefix = "the space begins beyond the limits: " if record.initial else ""
            self.store.reject(record.id, prefix + ", ".join(beyond), over)
        return bool(beyond)

    def _raise_where_all_fail(self) -> None:
        records = self.store.records()
        failed = [r for r in records if r.state == TrialState.FAIL]
        if len(failed) >= MAX_FAILURES and not any(r.rungs for r in records):
            raise RunError(f"the first {len(failed)} trials all failed, the last one so: {failed[-1].reason}")


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
