"""Store and scheduler in one process: interruptions, limits, failures, duplicates, halving."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from core.errors import RunError, Stopped
from nas import lease, proposals, report_page
from nas import store as store_module
from nas.halving import Halving
from nas.lease import LeaseMonitor
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.storage import study_folder
from nas.store import LeaseLost, TrialStore
from nas.trial_record import RungResult
from tests.nas.stand_in import accuracy

OBJECTIVES = {"knn": "maximize", "macs": "minimize"}
WRITES = ("create_new_trial", "set_trial_user_attr", "set_trial_system_attr", "set_trial_param", "set_trial_state_values",
          "set_trial_intermediate_value")


class Cut(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """One storage a test, kept while stores come and go as processes would."""
    kept = {}
    monkeypatch.setattr(store_module, "open_storage", lambda address, name: kept.setdefault(address, InMemoryStorage()))
    return kept


class FakeEvaluator:
    """An evaluator of `size`**3 candidates.  broken: point → exception of training, unbuilt: of sampling, unmeasured: of costs;
    counts epochs where they are trained.
    """

    def __init__(self, size: int = 4, broken=None, unbuilt=lambda p: False, unmeasured=lambda p: False):
        self.size, self.broken, self.done, self.spent, self.trained = size, broken or {}, {}, 0, []
        self.unbuilt, self.unmeasured, self.raised = unbuilt, unmeasured, []

    initial = None

    def sample(self, trial):
        point = [trial.suggest_categorical(name, list(range(self.size))) for name in "ab"]
        point.append(trial.suggest_int("c", 0, self.size - 1))
        self.raise_where(point, self.unbuilt)
        return SimpleNamespace(json={"point": point}, hash=optuna_free_hash(point))

    def costs(self, candidate):
        self.raise_where(candidate.json["point"], self.unmeasured)
        return {"macs": float(sum(candidate.json["point"])), "parameters": float(1 + candidate.json["point"][0])}

    def raise_where(self, point, match):
        if match(point):
            self.raised.append(tuple(point))
            raise ValueError(f"no {point}")

    def advance(self, candidate, record, epochs, heartbeat):
        assert record.state == TrialState.RUNNING
        heartbeat()
        for match, error in self.broken.items():
            if match(candidate["point"]):
                raise error
        if candidate["hash"] not in self.done:
            self.trained.append(candidate["hash"])
        self.spent += epochs - self.done.get(candidate["hash"], 0)
        self.done[candidate["hash"]] = epochs
        return {"knn": accuracy(candidate["hash"], epochs)}


def optuna_free_hash(point: list[int]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(point).encode()).hexdigest()[:16]


def config(trials=12, sampler="tpe", rungs=3, limits=None, interval=0.001, seed=0) -> SearchConfig:
    return SearchConfig(trials, Halving.of(9, rungs, 3), OBJECTIVES, limits or {}, sampler, seed, interval)


def open_store(storage: str = "one", objectives=OBJECTIVES) -> TrialStore:
    return TrialStore("study", storage, objectives, {"a": 1})


def table(records) -> list[tuple]:
    return [(r.number, r.state.name, r.hash, r.trial.params, r.rungs, r.reason, r.target_rung,
             r.trial.values if r.rungs else None, r.invalid) for r in records]


def test_a_search_of_few_trials_ends_with_a_trained_encoder(in_memory):
    """Two trials are too few for a third of them to be promoted; the better one is trained to the end."""
    store, evaluator = open_store(), FakeEvaluator()
    Worker(store, config(trials=2, sampler="random"), evaluator).run()
    complete = [r for r in store.records() if r.state == TrialState.COMPLETE]
    (pruned,) = [r for r in store.records() if r.state == TrialState.PRUNED]
    (winner,) = complete
    assert [rung.epochs for rung in winner.rungs] == [1.0, 3.0, 9.0]
    assert winner.rungs[0].values[0] >= pruned.rungs[0].values[0]


# ------------------------------------------------------------------------------------------------------------------ cuts


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_interrupted_at_any_write_it_resumes_to_the_same_study(sampler, in_memory, monkeypatch):
    whole = same_when_cut(sampler, FakeEvaluator, in_memory, monkeypatch)
    assert sum(r.candidate["drawn"] > 1 for r in whole) > 1, "a limit should have had some drawn again"


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_interrupted_it_is_the_same_study_where_much_cannot_be_built(sampler, in_memory, monkeypatch):
    whole = same_when_cut(sampler, partly_built, in_memory, monkeypatch)
    assert sum(bool(r.invalid) for r in whole) > 2


def partly_built() -> FakeEvaluator:
    return FakeEvaluator(unbuilt=lambda p: p[0] % 2 == 1, unmeasured=lambda p: p[1] == 0)


def same_when_cut(sampler, make, in_memory, monkeypatch):
    # heartbeats are writes too: how many cuts meet one trial depends on the clock
    monkeypatch.setattr(lease, "MAX_EXPIRED_LEASES", 1000)
    limits = {"macs": 7.0}
    whole, evaluator = open_store("whole"), make()
    Worker(whole, config(sampler=sampler, limits=limits), evaluator).run()
    expected = table(whole.records())
    assert {"COMPLETE", "PRUNED"} <= {row[1] for row in expected}
    rng, cuts = np.random.RandomState(0), 0
    for case in range(12):
        storage = f"cut {case}"
        cut_evaluator = make()
        for _ in range(50):
            try:
                store = open_store(storage)
                monkeypatch.setattr(lease, "process_ended", lambda worker, me=store.worker: worker != me)
                cutting(monkeypatch, in_memory[storage], rng.randint(1, 60), before=bool(rng.randint(2)))
                Worker(store, config(sampler=sampler, limits=limits), cut_evaluator).run()
                break
            except Cut:
                cuts += 1
        assert table(open_store(storage).records()) == expected
        assert cut_evaluator.spent == evaluator.spent  # checkpoints lie where they were: nothing is trained twice
    assert cuts > 24
    return whole.records()


def test_a_search_begins_where_its_space_says(in_memory):
    evaluator = FakeEvaluator()
    evaluator.initial = {"a": 2, "b": 3, "c": 1, "no_parameter_here": 0}
    Worker(open_store("first"), config(), evaluator).run()
    points = [r.candidate["point"] for r in open_store("first").records()]
    assert points[0] == [2, 3, 1]
    assert points.count([2, 3, 1]) == 1


def test_what_a_search_begins_with_competes_with_no_candidates(in_memory):
    evaluator = FakeEvaluator()
    evaluator.initial, evaluator.pick_best = {"a": 2, "b": 3, "c": 1}, lambda candidates: len(candidates) - 1
    Worker(open_store(), replace(config(), candidates=4), evaluator).run()
    assert open_store().records()[0].candidate["point"] == [2, 3, 1]


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_where_limits_reject_what_a_search_begins_with_it_says_so_and_continues(sampler, in_memory, monkeypatch):
    def make() -> FakeEvaluator:
        evaluator = FakeEvaluator()
        evaluator.initial = {"a": 3, "b": 3, "c": 3}
        return evaluator

    first, *others = same_when_cut(sampler, make, in_memory, monkeypatch)
    assert first.candidate["point"] == [3, 3, 3]
    assert (first.state, first.reason) == (TrialState.PRUNED, "the space begins beyond the limits: macs 9 > 7")
    assert not any(r.initial for r in others)
    assert sum(bool(r.rungs) for r in others) == 12
    assert f"trial 0 was rejected: {first.reason}" in report_page.reasons([first])


def test_what_a_search_begins_with_and_cannot_be_built_fails_with_the_reason():
    evaluator, store = FakeEvaluator(unbuilt=lambda p: p[0] == 3), open_store()
    evaluator.initial = {"a": 3, "b": 3, "c": 3}
    Worker(store, config(4, rungs=1), evaluator).run()
    first, *others = store.records()
    assert (first.state, first.reason) == (TrialState.FAIL, "ValueError: no [3, 3, 3]")
    assert [r.state for r in others] == [TrialState.COMPLETE] * 3


def cutting(monkeypatch, storage, count: int, before: bool) -> None:
    """The process ends at the count-th write, before it or after it."""
    left = [count]
    for name in WRITES:
        real = getattr(InMemoryStorage, name)

        def write(*arguments, real=real, **named):
            left[0] -= 1
            if left[0] == 0 and before:
                raise Cut
            value = real(storage, *arguments, **named)
            if left[0] == 0:
                raise Cut
            return value

        monkeypatch.setattr(storage, name, write)


def test_a_signal_releases_the_trial_and_the_same_study_resumes():
    whole = open_store("whole")
    Worker(whole, config(), FakeEvaluator()).run()
    part, evaluator = open_store("part"), FakeEvaluator()
    for _ in range(40):
        worker = Worker(part, config(interval=60), evaluator)
        calls = []

        def advance(*arguments, worker=worker, calls=calls):
            calls.append(1)
            worker.stop = len(calls) == 2
            return FakeEvaluator.advance(evaluator, *arguments)

        worker.evaluator = SimpleNamespace(sample=evaluator.sample, costs=evaluator.costs, advance=advance, initial=None)
        try:
            worker.run()
            break
        except Stopped:
            assert not [r for r in part.records() if r.state == TrialState.RUNNING]
    assert table(part.records()) == table(whole.records())


# -------------------------------------------------------------------------------------------------------- what is rejected


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "evolution", "random"])
def test_nothing_is_trained_twice_and_an_exhausted_space_ends_the_study(sampler):
    evaluator, store = FakeEvaluator(size=3), open_store()
    trials = 12 if sampler == "gp" else 40
    Worker(store, config(trials, sampler, rungs=1), evaluator).run()
    hashes = [r.hash for r in store.records() if not r.rejected]
    assert len(hashes) == len(set(hashes)) == len(evaluator.trained) == min(27, trials)
    if trials > 27:
        assert "tried" in store.records()[-1].reason


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_nothing_is_trained_beyond_limits_and_late_proposals_keep_them(sampler):
    evaluator, store = FakeEvaluator(size=12), open_store()
    Worker(store, config(60, sampler, rungs=1, limits={"macs": 9.0}), evaluator).run()
    records = store.records()
    assert all(r.costs["macs"] <= 9 for r in records if r.rungs)
    assert evaluator.spent == 60 * 9
    late = records[len(records) // 2 :]
    assert sum(not r.rejected for r in late) / len(late) >= 0.9  # of all points: one in eight


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_three_hundred_trials_hold_no_duplicate_and_hardly_a_rejection(sampler):
    evaluator, store = FakeEvaluator(size=16), open_store()
    Worker(store, config(300, sampler, rungs=1, limits={"macs": 14.0}), evaluator).run()  # one point in six keeps within
    records = store.records()
    trained = [r for r in records if r.rungs]
    assert len({r.hash for r in trained}) == len(trained) == 300
    assert len(evaluator.trained) == len(set(evaluator.trained)) == 300
    assert evaluator.spent == 300 * 9
    assert all(r.costs["macs"] <= 14 for r in trained)
    late = records[len(records) // 2 :]
    assert sum(not r.rejected for r in late) / len(late) >= 0.9


def test_what_limits_leave_no_room_for_is_rejected_with_the_reason():
    evaluator, store = FakeEvaluator(size=4), open_store()
    Worker(store, config(3, "random", rungs=1, limits={"macs": 0.0}), evaluator).run()
    rejected = [r for r in store.records() if r.rejected and r.candidate]
    assert len(evaluator.trained) == 1  # 0, 0, 0
    assert all(r.state == TrialState.PRUNED and r.trial.constraints["macs"] > 0 for r in rejected)
    assert any(r.reason == f"macs {r.costs['macs']:.4g} > 0" for r in rejected)
    assert len(rejected) < 63
    assert "the last 10 trials were all beyond it, the nearest with macs" in store.records()[-1].reason


def test_limits_that_nothing_keeps_end_the_study_soon_with_the_nearest_cost():
    evaluator, store = FakeEvaluator(size=16), open_store()
    evaluator.costs = lambda candidate: {"macs": 100.0 + sum(candidate.json["point"])}
    Worker(store, config(30, "random", limits={"macs": 5.0}), evaluator).run()
    *rejected, last = store.records()
    assert len(rejected) == 10
    nearest = min(r.costs["macs"] for r in rejected)
    assert last.reason == f"limit=macs:5: the last 10 trials were all beyond it, the nearest with macs {nearest:.4g}"
    assert f"ended: {last.reason}" in report_page.reasons(store.records())
    assert not evaluator.trained


def test_a_trial_that_fails_is_recorded_and_the_study_continues():
    broken = {lambda p: p[0] == 1: MemoryError("CUDA out of memory"), lambda p: p[1] == 2: RunError("the loss is nan")}
    store = open_store()
    Worker(store, config(20, "random", rungs=1), FakeEvaluator(broken=broken)).run()
    states = [r.state for r in store.records()]
    assert states.count(TrialState.FAIL) > 2
    assert len(states) == 20
    reasons = {r.reason for r in store.records() if r.state == TrialState.FAIL}
    assert reasons == {"MemoryError: CUDA out of memory", "RunError: the loss is nan"}


def test_where_nothing_succeeds_the_study_says_why():
    with pytest.raises(RunError, match="the first 5 trials all failed, the last one so: OSError: no space"):
        Worker(open_store(), config(20), FakeEvaluator(broken={lambda p: True: OSError("no space")})).run()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_what_cannot_be_built_is_remembered_and_another_is_drawn(sampler):
    """Three of four points; each is met once as something new, and no trial is lost to it."""
    evaluator, store = FakeEvaluator(size=8, unbuilt=lambda p: p[0] % 2 == 1, unmeasured=lambda p: p[1] >= 4), open_store()
    Worker(store, config(15, sampler, rungs=1), evaluator).run()
    records = store.records()
    assert [r.state for r in records] == [TrialState.COMPLETE] * 15
    remembered = [tuple(invalid.params.values.values()) for r in records for invalid in r.invalid]
    assert len(remembered) == len(set(remembered)) > 5
    assert set(remembered) == set(evaluator.raised)


def test_a_small_space_of_which_some_cannot_be_built_is_exhausted():
    evaluator, store = FakeEvaluator(size=3, unbuilt=lambda p: p[2] == 2), open_store()
    Worker(store, config(40, "random", rungs=1), evaluator).run()
    assert len(evaluator.trained) == len(set(evaluator.trained)) == 18
    assert "no more than 18 candidates and 9 that cannot be built" in store.records()[-1].reason


def test_where_nothing_can_be_built_the_study_says_why():
    evaluator, store = FakeEvaluator(size=32, unbuilt=lambda p: True), open_store()
    with pytest.raises(RunError, match="the first 5 trials all failed, the last one so: ValueError: no "):
        Worker(store, config(20), evaluator).run()
    assert [len(r.invalid) for r in store.records()] == [proposals.MAX_INVALID] * 5
    evaluator = FakeEvaluator()
    evaluator.sample = lambda trial: {}["width"]
    with pytest.raises(RunError, match="the last one so: KeyError: 'width'"):
        Worker(open_store("at once"), config(20), evaluator).run()


def test_an_objective_that_is_no_number_fails_its_trial():
    evaluator, store = FakeEvaluator(), open_store()
    evaluator.advance = lambda candidate, record, epochs, heartbeat: {"knn": float("nan") if record.number % 2 else 1.0}
    Worker(store, config(6, "random"), evaluator).run()
    assert [r.state == TrialState.FAIL for r in store.records()] == [False, True] * 3


# ----------------------------------------------------------------------------------------------------------------- workers


def test_a_lost_worker_is_noticed_after_two_intervals_and_no_sooner(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])
    store = open_store()
    id = store.create()
    monitor = LeaseMonitor(store, 10)
    assert monitor.release_expired() == []
    clock[0] += 19
    store.heartbeat(id)
    assert monitor.release_expired() == []
    clock[0] += 19.9
    assert monitor.release_expired() == []
    clock[0] += 0.2
    assert [r.number for r in monitor.release_expired()] == [0]
    assert store.record(id).released
    with pytest.raises(LeaseLost):
        store.heartbeat(id)
    with pytest.raises(LeaseLost):
        store.set_rungs(id, [RungResult(1, [1.0, 1.0], {})])


def test_a_trial_whose_workers_are_lost_again_and_again_fails(monkeypatch):
    store = open_store()
    id = store.create()
    monkeypatch.setattr(lease, "process_ended", lambda worker: True)
    for _ in range(lease.MAX_EXPIRED_LEASES - 1):
        LeaseMonitor(store, 10).release_expired()
        assert store.claim(store.record(id))
    LeaseMonitor(store, 10).release_expired()
    assert store.record(id).state == TrialState.FAIL
    assert "lost" in store.record(id).reason


def test_a_waiting_trial_is_claimed_once():
    store, other = open_store(), open_store()
    id = store.create()
    store.release(id)
    seen = store.record(id)
    assert store.claim(seen)
    assert not other.claim(seen)


def test_another_configuration_may_not_join():
    open_store()
    with pytest.raises(ValueError, match="study=study was begun with other settings \\(a: 1 → 2\\); give another study"):
        TrialStore("study", "one", OBJECTIVES, {"a": 2})


def corrected(objectives=OBJECTIVES) -> TrialStore:
    return TrialStore("study", "one", objectives, {"a": 2}, reset_untrained=True)


def test_a_study_that_trained_nothing_may_begin_again_with_other_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = study_folder("study") / "trials" / "00000"
    left.mkdir(parents=True)
    with pytest.raises(RunError):
        Worker(open_store(), config(20), FakeEvaluator(broken={lambda p: True: OSError("no labels")})).run()
    with pytest.raises(ValueError, match="other settings"):
        TrialStore("study", "one", OBJECTIVES, {"a": 2})  # a worker's: only the command itself may
    one = {"knn": "maximize"}
    store = corrected(one)
    assert (store.settings, store.records()) == ({"a": 2}, [])
    assert not left.exists()
    assert (tmp_path / "runs" / "nas" / "study" / "trials-1" / "00000").is_dir()
    Worker(store, SearchConfig(5, Halving.of(9, 1, 3), one, {}, "random", 0, 1.0), FakeEvaluator()).run()
    assert sum(bool(r.rungs) for r in store.records()) == 5


@pytest.mark.parametrize("at", ["work", "rest", "its first rung", "its supernet"])
def test_a_study_that_has_begun_to_train_takes_no_other_settings(at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store()
    if at == "its supernet":
        (study_folder("study") / "supernet").mkdir(parents=True)
    else:
        id = store.create()
        if at == "rest":
            store.release(id)
        if at == "its first rung":
            store.set_rungs(id, [RungResult(1, [1.0, 1.0], {})])
            store.fail(id, "later")
    with pytest.raises(ValueError, match="study=study was begun with other settings \\(a: 1 → 2\\)"):
        corrected()


def test_more_trials_resume_the_study():
    evaluator = FakeEvaluator()
    Worker(open_store(), config(5, "random", rungs=1), evaluator).run()
    Worker(open_store(), config(9, "random", rungs=1), evaluator).run()
    assert len(open_store().records()) == len(evaluator.trained) == 9
    whole = open_store("whole")
    Worker(whole, config(9, "random", rungs=1), FakeEvaluator()).run()
    assert table(open_store().records()) == table(whole.records())


# ----------------------------------------------------------------------------------------------------------------- halving


def test_rungs_are_geometric_and_promotion_costs_the_difference():
    assert Halving.of(9, 3, 3).rungs == (1, 3, 9)
    evaluator, store = FakeEvaluator(size=6), open_store()
    Worker(store, config(27, "random"), evaluator).run()
    reached = [len(r.rungs) for r in store.records()]
    assert (reached.count(3), sum(n >= 2 for n in reached)) == (3, 9)
    assert evaluator.spent == sum((1, 3, 9)[n - 1] for n in reached)
    ends = [TrialState.COMPLETE if n == 3 else TrialState.PRUNED for n in reached]
    assert [r.state for r in store.records()] == ends
    stayed = [r for r, n in zip(store.records(), reached, strict=True) if n < 3]
    assert all("not promoted" in r.reason for r in stayed)


def test_with_one_objective_a_third_is_promoted_and_it_is_better_than_the_rest():
    one, evaluator = {"knn": "maximize"}, FakeEvaluator(size=6)
    store = TrialStore("study", "single", one, {})
    Worker(store, SearchConfig(27, Halving.of(9, 2, 3), one, {}, "random", 0, 1.0), evaluator).run()
    first = sorted((r.rungs[0].values[0] for r in store.records()), reverse=True)
    promoted = [r.rungs[0].values[0] for r in store.records() if len(r.rungs) == 2]
    assert len(promoted) == 9
    assert len(set(first[:9]) & set(promoted)) >= 6  # early trials had fewer to be better than
    assert store.records()[first_index(store)].rungs[0].values[0] == max(promoted)


def first_index(store) -> int:
    """The best of all after the first rung: it is always promoted."""
    return max(range(27), key=lambda i: store.records()[i].rungs[0].values[0])
