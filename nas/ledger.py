"""A study in Optuna's storage, and who works on what: trials are claimed, beaten for, given back, paused and ended.

Everything a trial is lies in the storage, in attributes that optuna-dashboard shows too, so any number of processes on any
number of machines may join, stop and come back:

    choice   what is trained (nas/space.py), its hash, and what the sampler must remember of it
    broken   what was drawn before it and cannot be built, each with its reason
    costs    what it costs, measured before training
    rungs    [{"epochs": …, "values": […], "figures": {…}}, …]: one for every rung that it has reached
    goal     how many rungs it was last sent to reach
    owner    [worker, beats]: who works on it; a beat that stays the same for two intervals is a worker lost
    lost     how many workers were lost over it
    reason   why it was refused, or failed

A trial is RUNNING while somebody works on it, WAITING when it is paused at a rung or was given back, COMPLETE at the last
rung, PRUNED when it was refused before training or stayed behind, FAIL with its reason. WAITING → RUNNING happens once
however many workers try: both of Optuna's storages promise that, and all else rests on it.
"""
import contextlib
import itertools
import os
import time
import uuid
import warnings
from functools import partial

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from core.identity import difference
from nas.entry import Entry, Lost, gone, machine
from nas.retry import RetryingStorage, StorageError, named, retry, transient_at_opening, translate
from nas.settings import objectives as names_of
from nas.storage import Missing, existing, folder, open_storage

ATTEMPTS = 5  # a trial whose workers were lost so often is at fault itself


class Ledger:
    """One study.  name, storage: as `open_storage` takes them; objectives: name → "maximize" or "minimize".
    Without objectives and settings: one that is there, with its own; nothing is created. anew: where nothing came of it, such
    as after a mistyped word, it may begin again with other settings.

    Raises ValueError where the study was begun with other settings, or the storage cannot be reached. Later, every method
    raises StorageError where the storage could not be read or written for long (nas/retry.py).
    """

    def __init__(
        self, name: str, storage: str | BaseStorage, objectives: dict[str, str] | None = None, settings: dict | None = None,
        anew: bool = False,
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.me = name, f"{machine()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        try:
            self.study = self._open(storage, objectives)
            if anew and self.settings and difference(self.settings, settings) and self._barren():
                self._clear()
                self.study = self._open(storage, objectives)
        except Missing:
            raise
        except StorageError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # each database has errors of its own
            raise ValueError(f"{named(storage)}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        if settings is not None:
            self._begin(objectives, settings)

    def _open(self, storage: str | BaseStorage, objectives: dict[str, str] | None) -> optuna.Study:
        never = optuna.samplers.RandomSampler(0)  # asked: nas/sampler.py proposes
        opened = open_storage if objectives else existing
        where, attempt = named(storage), partial(opened, storage, self.name)
        inner = retry(lambda: translate(attempt, where, transient_at_opening), where)
        self.storage = RetryingStorage(optuna.storages.get_storage(inner), where)
        if objectives is None:
            return optuna.load_study(study_name=self.name, storage=self.storage, sampler=never)
        directions = list(objectives.values())
        return optuna.create_study(
            study_name=self.name, storage=self.storage, directions=directions, load_if_exists=True, sampler=never,
        )

    def _begin(self, objectives: dict[str, str], settings: dict) -> None:
        if self.settings is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(objectives))
            self.study.set_user_attr("settings", settings)
        elif changes := difference(self.settings, settings):
            raise ValueError(f"study={self.name} was begun with other settings ({'; '.join(changes)}); give another study")

    def hold_images(self, images: dict[str, str]) -> None:
        """Keep the fingerprints of the images that trials see, or compare them.  Raises ValueError where they are others."""
        known = self.study.user_attrs.get("images")
        if known is None:
            self.study.set_user_attr("images", images)
        elif changes := difference(known, images):
            raise ValueError(f"study={self.name} was begun with other images ({'; '.join(changes)}); give another study")

    def _barren(self) -> bool:
        """Was nothing trained, and is nothing being trained?"""
        at_work = any(e.rungs or e.state in (TrialState.RUNNING, TrialState.WAITING) for e in self.entries())
        return not at_work and not (folder(self.name) / "supernet").exists()

    def _clear(self) -> None:
        """Forget its trials; what they left in run folders is put aside."""
        optuna.delete_study(study_name=self.name, storage=self.storage)
        left = folder(self.name) / "trials"
        if left.exists():
            aside = (left.with_name(f"trials-{i}") for i in itertools.count(1))
            left.rename(next(path for path in aside if not path.exists()))

    @property
    def settings(self) -> dict | None:
        """What it was begun with (core/identity.py), its objectives by today's names."""
        found = self.study.user_attrs.get("settings")
        return found | {"objectives": ",".join(names_of(found["objectives"]))} if found and "objectives" in found else found

    def entries(self) -> list[Entry]:
        return [Entry(t) for t in self.study.get_trials(deepcopy=False)]

    def entry(self, id: int) -> Entry:
        return Entry(self.storage.get_trial(id))

    # ---- working on a trial

    def begin(self) -> int:
        """A new trial, ours.  → its id"""
        ours, tries = create_trial(state=TrialState.RUNNING, user_attrs={"owner": [self.me, 0]}), itertools.count()

        def create() -> int:
            """Not twice: an error may come after the write."""
            if next(tries):
                for e in self.entries():
                    if e.state == TrialState.RUNNING and e.owner == [self.me, 0] and e.choice is None:
                        return e.id
            return self.storage.create_new_trial(self.study._study_id, ours)

        return self.storage.retry(create)

    def claim(self, entry: Entry, goal: int | None = None) -> bool:
        """Take a waiting trial; False where another worker was first.  goal: the rung that it is now sent to."""
        try:
            # where an error came after the write, a second try finds it running, and `Watch` gives it back
            if not self.storage.retry(lambda: self.storage.set_trial_state_values(entry.id, TrialState.RUNNING)):
                return False
        except UpdateFinishedTrialError:
            return False
        self.set(entry.id, "owner", [self.me, 0])
        if goal is not None:
            self.set(entry.id, "goal", goal)
        return True

    def beat(self, id: int) -> None:
        """Say that we are alive and getting on.  Raises Lost where the trial is another's by now."""
        self.set(id, "owner", [self.me, self._check(id).owner[1] + 1])

    def _check(self, id: int) -> Entry:
        entry = self.entry(id)
        if entry.state != TrialState.RUNNING or entry.owner[0] != self.me:
            raise Lost(f"trial {entry.number} is {entry.owner[0]}'s now")
        return entry

    def set(self, id: int, name: str, value) -> None:
        try:
            self.storage.set_trial_user_attr(id, name, value)
        except UpdateFinishedTrialError as error:
            raise Lost(f"trial {id} is finished") from error

    def choose(self, id: int, choice: dict, costs: dict[str, float]) -> None:
        """Write down what is to be trained, in one write: it is there whole or not at all."""
        self.set(id, "costs", costs)
        self.set(id, "choice", choice)

    def show(self, entry: Entry) -> None:
        """The choice's parameters as Optuna's own, for dashboards; those that are not there yet."""
        params, distributions = entry.asked
        for name, value in params.items():
            if name not in entry.trial.params:
                internal = distributions[name].to_internal_repr(value)
                self.storage.set_trial_param(entry.id, name, internal, distributions[name])

    def reach(self, id: int, rungs: list[dict]) -> None:
        """All rungs so far, the last one new."""
        self._check(id)
        self.set(id, "rungs", rungs)
        self.storage.set_trial_intermediate_value(id, len(rungs), rungs[-1]["values"][0])  # it takes one

    def pause(self, id: int) -> None:
        self._end(id, TrialState.WAITING)

    give_back = pause  # the rungs tell which of the two it is

    def complete(self, id: int, values: list[float]) -> None:
        self._end(id, TrialState.COMPLETE, values)

    def refuse(self, id: int, reason: str, violations: dict[str, float]) -> None:
        """Not to be trained.  violations: limit → by how much it is exceeded, as samplers understand it."""
        for name, by in violations.items():
            self.storage.set_trial_system_attr(id, f"constraints:{name}", by)
        self.set(id, "reason", reason)
        self._end(id, TrialState.PRUNED)

    def fail(self, id: int, reason: str) -> None:
        self.set(id, "reason", reason)
        self._end(id, TrialState.FAIL)

    def _end(self, id: int, state: TrialState, values: list[float] | None = None) -> None:
        def end() -> None:
            self._check(id)  # each time: after an error the trial may be another worker's
            self.storage.set_trial_state_values(id, state, values)

        try:
            self.storage.retry(end)
        except UpdateFinishedTrialError as error:
            raise Lost(f"trial {id} is finished") from error

    def close(self, entry: Entry) -> bool:
        """A paused trial that stayed behind ends where it is; False where another worker took it."""
        if not self.claim(entry):
            return False
        try:
            self.set(entry.id, "reason", f"stayed behind at {entry.rungs[-1]['epochs']:g} epochs")
            self._end(entry.id, TrialState.PRUNED)
        except Lost:
            return False
        return True


class Watch:
    """Gives back the trials of workers that are lost: killed, hung, preempted or cut off.

    A beat is watched, not read as a time: clocks of different machines need not agree. A worker on this machine whose
    process is gone is lost at once.
    """

    def __init__(self, ledger: Ledger, interval: float):
        self.ledger, self.interval = ledger, interval
        self.seen: dict[int, tuple[list, float]] = {}  # trial → (owner, when it was first seen so)

    def look(self) -> list[int]:
        """→ numbers of the trials that were given back now."""
        found, now = [], time.monotonic()
        for entry in self.ledger.entries():
            if entry.state != TrialState.RUNNING:
                self.seen.pop(entry.id, None)
                continue
            owner, since = self.seen.get(entry.id, (None, now))
            if owner != entry.owner:
                owner, since = entry.owner, now
            self.seen[entry.id] = owner, since
            if now - since > 2 * self.interval or gone(owner[0]):
                self._give_back(entry)
                found.append(entry.number)
        return found

    def _give_back(self, entry: Entry) -> None:
        storage = self.ledger.storage

        def give() -> None:
            now = self.ledger.entry(entry.id)
            if now.owner != entry.owner or now.state != TrialState.RUNNING:
                return
            storage.set_trial_user_attr(entry.id, "lost", entry.lost + 1)
            if entry.lost + 1 >= ATTEMPTS:
                storage.set_trial_user_attr(entry.id, "reason", f"{ATTEMPTS} workers were lost while they worked on it")
                storage.set_trial_state_values(entry.id, TrialState.FAIL)
            else:
                storage.set_trial_state_values(entry.id, TrialState.WAITING)

        with contextlib.suppress(UpdateFinishedTrialError):  # it ended meanwhile
            storage.retry(give)
