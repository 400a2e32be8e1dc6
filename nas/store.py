"""A study's trials in Optuna's storage: created, claimed, renewed, paused, released and ended.

Everything about a trial lies in the storage, in attributes that optuna-dashboard shows too, so any number of processes on any
number of machines may join, stop and come back:

    choice   the candidate that is trained (nas/space.py), its hash, and what the sampler must remember of it
    broken   what was sampled before it and cannot be built, each with its reason
    costs    what it costs, measured before training
    methods  of costs and accuracy of deployment (nas/deployment.py), how they were measured
    rungs    [{"epochs": …, "values": […], "figures": {…}, "seconds": …}, …]: one for every rung that it has reached
    unfinished  seconds of training since the last rung, of a trial that was stopped or failed
    goal     the number of rungs that it is to reach: its target rung
    owner    [worker, heartbeats]: its lease, which expires when the heartbeats stop
    lost     how many leases have expired
    reason   why it was rejected, or failed
    replicate  [number, seed]: it trains that trial's candidate again, to the end (nas/verification.py)

A trial is RUNNING while somebody works on it, WAITING when it is paused at a rung or was released, COMPLETE at the last rung,
PRUNED when it was rejected before training or was not promoted, FAIL with its reason. WAITING → RUNNING happens once however
many workers try: both of Optuna's storages promise that, and all else rests on it.
"""
import contextlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from core.identity import difference
from nas.optuna_adapter import study_id
from nas.retry import RetryingStorage, StorageError, one_line, retry, storage_label, transient_at_opening, translate
from nas.settings import parse_objectives
from nas.storage import MissingStudy, open_existing, open_storage, study_folder
from nas.trial_record import Invalid, Lease, Replicate, RungResult, TrialRecord
from nas.worker_name import worker_name


class LeaseLost(Exception):
    """Another worker has the trial now: this one's lease had expired."""


class TrialStore:
    """One study.  name, storage: as `open_storage` takes them; objectives: name → "maximize" or "minimize".
    Without objectives and settings: an existing one, with its own; nothing is created. reset_untrained: one that has trained
    nothing, such as after a mistyped setting, may begin again with other settings.

    Raises ValueError where the study was begun with other settings, or the storage cannot be reached. Later, every method
    raises StorageError where the storage could not be read or written for long (nas/retry.py).
    """

    def __init__(
        self, name: str, storage: str | BaseStorage, objectives: dict[str, str] | None = None, settings: dict | None = None,
        reset_untrained: bool = False,
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.worker = name, worker_name()
        try:
            self.study = self._open(storage, objectives)
            if reset_untrained and self.settings and difference(self.settings, settings) and self._untrained():
                self._reset()
                self.study = self._open(storage, objectives)
        except MissingStudy:
            raise
        except StorageError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # each database has errors of its own
            raise ValueError(f"{storage_label(storage)}: {one_line(error)}") from error
        if settings is not None:
            self._begin(objectives, settings)

    def _open(self, storage: str | BaseStorage, objectives: dict[str, str] | None) -> optuna.Study:
        unused = optuna.samplers.RandomSampler(0)  # nas/proposals.py proposes
        opener = open_storage if objectives else open_existing
        label, attempt = storage_label(storage), partial(opener, storage, self.name)
        inner = retry(lambda: translate(attempt, label, transient_at_opening), label)
        self.storage = RetryingStorage(optuna.storages.get_storage(inner), label)
        if objectives is None:
            return optuna.load_study(study_name=self.name, storage=self.storage, sampler=unused)
        directions = list(objectives.values())
        return optuna.create_study(
            study_name=self.name, storage=self.storage, directions=directions, load_if_exists=True, sampler=unused,
        )

    def _begin(self, objectives: dict[str, str], settings: dict) -> None:
        if self.settings is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(objectives))
            self.study.set_user_attr("planned", True)
            self.study.set_user_attr("promote", "expected")
            self.study.set_user_attr("measures_at_end", True)
            self.study.set_user_attr("settings", settings)
        elif changes := difference(self.settings, settings):
            raise ValueError(f"study={self.name} was begun with other settings ({'; '.join(changes)}); give another study")

    def check_images(self, fingerprints: dict[str, str]) -> None:
        """Keep the fingerprints of the images that trials see, or compare them.  Raises ValueError where they differ."""
        kept = self.study.user_attrs.get("images")
        if kept is None:
            self.study.set_user_attr("images", fingerprints)
        elif changes := difference(kept, fingerprints):
            raise ValueError(f"study={self.name} was begun with other images ({'; '.join(changes)}); give another study")

    @property
    def has_plan(self) -> bool:
        """Was it begun with a plan (nas/plan.py)? Older studies were not."""
        return bool(self.study.user_attrs.get("planned"))

    @property
    def promote(self) -> str:
        """What decides who is promoted, where the settings do not: older studies go on by what was measured."""
        return self.study.user_attrs.get("promote") or "measured"

    @property
    def plan(self) -> dict | None:
        """The plan's JSON, once a worker has made it."""
        return self.study.user_attrs.get("plan")

    def set_plan(self, plan: dict) -> None:
        self.study.set_user_attr("plan", plan)

    @property
    def measures_at_end(self) -> bool:
        """Is the front's latency measured when it has ended (nas/remeasure.py)? Older studies keep what they had."""
        return bool(self.study.user_attrs.get("measures_at_end"))

    @property
    def device(self) -> dict | None:
        """What was measured then, as JSON."""
        return self.study.user_attrs.get("device")

    def set_device(self, device: dict) -> None:
        self.study.set_user_attr("device", device)

    def _untrained(self) -> bool:
        """Was nothing trained, and is nothing being trained?"""
        active = any(r.rungs or r.state in (TrialState.RUNNING, TrialState.WAITING) for r in self.records())
        return not active and not (study_folder(self.name) / "supernet").exists()

    def _reset(self) -> None:
        """Delete the study; what its trials left in run folders is renamed, not deleted."""
        optuna.delete_study(study_name=self.name, storage=self.storage)
        folder = study_folder(self.name) / "trials"
        if folder.exists():
            names = (folder.with_name(f"trials-{i}") for i in itertools.count(1))
            folder.rename(next(path for path in names if not path.exists()))

    @property
    def settings(self) -> dict | None:
        """The settings that it was begun with (core/identity.py), its objectives by today's names."""
        kept = self.study.user_attrs.get("settings")
        if not kept or "objectives" not in kept:
            return kept
        return kept | {"objectives": ",".join(parse_objectives(kept["objectives"]))}

    def records(self) -> list[TrialRecord]:
        """The study's trials, without replicates."""
        return [r for r in self.all_records() if not r.replicate]

    def replicates(self) -> list[TrialRecord]:
        return [r for r in self.all_records() if r.replicate]

    def all_records(self) -> list[TrialRecord]:
        return [TrialRecord(t) for t in self.study.get_trials(deepcopy=False)]

    def record(self, id: int) -> TrialRecord:
        return TrialRecord(self.storage.get_trial(id))

    # ---- working on a trial

    def create(self) -> int:
        """A new trial with a lease of ours.  → its id"""
        return self._create({}, lambda r: r.candidate is None)

    def create_replicate(self, record: TrialRecord, seed: int) -> int:
        """The training of a trial's candidate with a fresh seed, with a lease of ours.  → its id"""
        replicate = Replicate(record.number, seed)
        attributes = {"replicate": replicate.json, "choice": record.candidate, "costs": record.costs}
        return self._create(attributes, lambda r: r.replicate == replicate)

    def _create(self, attributes: dict, ours: Callable[[TrialRecord], bool]) -> int:
        lease = Lease(self.worker)
        template = create_trial(state=TrialState.RUNNING, user_attrs={"owner": lease.json, **attributes})
        attempts = itertools.count()

        def create_once() -> int:
            """An error may come after the write: a second attempt looks first."""
            if next(attempts):
                for r in self.all_records():
                    if r.state == TrialState.RUNNING and r.lease == lease and ours(r):
                        return r.id
            return self.storage.create_new_trial(study_id(self.study), template)

        return self.storage.retry(create_once)

    def claim(self, record: TrialRecord, target_rung: int | None = None) -> bool:
        """Take a waiting trial; False where another worker was first.  target_rung: a promotion to this rung."""
        try:
            # where an error came after the write, a second try finds it running, and `LeaseMonitor` releases it
            if not self.storage.retry(lambda: self.storage.set_trial_state_values(record.id, TrialState.RUNNING)):
                return False
        except UpdateFinishedTrialError:
            return False
        self.set(record.id, "owner", Lease(self.worker).json)
        if target_rung is not None:
            self.set_target_rung(record.id, target_rung)
        return True

    def heartbeat(self, id: int) -> None:
        """Renew our lease.  Raises LeaseLost where another worker has the trial."""
        self.set(id, "owner", Lease(self.worker, self._check(id).lease.heartbeats + 1).json)

    def _check(self, id: int) -> TrialRecord:
        record = self.record(id)
        if record.state != TrialState.RUNNING or record.lease.worker != self.worker:
            raise LeaseLost(f"trial {record.number} has the lease of {record.lease.worker} now")
        return record

    def set(self, id: int, key: str, value) -> None:
        try:
            self.storage.set_trial_user_attr(id, key, value)
        except UpdateFinishedTrialError as error:
            raise LeaseLost(f"trial {id} is finished") from error

    def set_candidate(self, id: int, candidate: dict, costs: dict[str, float]) -> None:
        """Keep what is to be trained. The candidate is one write: it is there whole or not at all."""
        self.set(id, "costs", costs)
        self.set(id, "choice", candidate)

    def set_costs(self, id: int, costs: dict[str, float], methods: dict[str, str]) -> None:
        """With those of deployment, and how each was measured."""
        self.set(id, "methods", methods)
        self.set(id, "costs", costs)

    def set_invalid(self, id: int, invalid: Sequence[Invalid]) -> None:
        self.set(id, "broken", [one.json for one in invalid])

    def set_target_rung(self, id: int, target_rung: int) -> None:
        self.set(id, "goal", target_rung)

    def show_params(self, record: TrialRecord) -> None:
        """Keep the candidate's parameters as Optuna's own too, for dashboards; those that are not there yet."""
        params = record.params
        for name, value in params.values.items():
            if name not in record.trial.params:
                distribution = params.distributions[name]
                self.storage.set_trial_param(record.id, name, distribution.to_internal_repr(value), distribution)

    def set_rungs(self, id: int, rungs: list[RungResult]) -> None:
        """All rungs so far, the last one new."""
        self._check(id)
        self.set(id, "rungs", [rung.json for rung in rungs])
        self.storage.set_trial_intermediate_value(id, len(rungs), rungs[-1].values[0])  # it takes one

    def set_unfinished(self, id: int, seconds: float) -> None:
        """Of training since the last rung.  Raises LeaseLost."""
        self._check(id)
        self.set(id, "unfinished", seconds)

    def release(self, id: int) -> None:
        """Leave the trial to any worker: paused where it is at its target rung."""
        self._end(id, TrialState.WAITING)

    def release_expired(self, record: TrialRecord, max_expired: int) -> None:
        """Leave another worker's trial to any worker, unless it has changed since; fail it at so many expired leases."""
        expired = record.expired_leases + 1

        def release() -> None:
            now = self.record(record.id)
            if now.lease != record.lease or now.state != TrialState.RUNNING:
                return
            self.storage.set_trial_user_attr(record.id, "lost", expired)
            if expired >= max_expired:
                reason = f"{max_expired} workers were lost while they worked on it"
                self.storage.set_trial_user_attr(record.id, "reason", reason)
            state = TrialState.FAIL if expired >= max_expired else TrialState.WAITING
            self.storage.set_trial_state_values(record.id, state)

        with contextlib.suppress(UpdateFinishedTrialError):  # it ended meanwhile
            self.storage.retry(release)

    def complete(self, id: int, values: list[float]) -> None:
        self._end(id, TrialState.COMPLETE, values)

    def reject(self, id: int, reason: str, violations: dict[str, float] | None = None) -> None:
        """End it before training.  violations: limit → by how much it is exceeded, as samplers understand it."""
        for name, by in (violations or {}).items():
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
            raise LeaseLost(f"trial {id} is finished") from error

    def prune(self, record: TrialRecord) -> bool:
        """End a paused trial that is not promoted; False where another worker took it."""
        if not self.claim(record):
            return False
        try:
            self.set(record.id, "reason", f"not promoted at {record.rungs[-1].epochs:g} epochs")
            self._end(record.id, TrialState.PRUNED)
        except LeaseLost:
            return False
        return True
