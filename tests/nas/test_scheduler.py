"""The ledger and the scheduler in one process: cuts, limits, failures, memory of what was tried, halving."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from core.errors import RunError, Stopped
from nas import ledger as ledgers
from nas import report, sampler
from nas.ledger import Ledger, Watch
from nas.scheduler import Halving, Plan, Worker
from tests.nas.stand_in import worth

OBJECTIVES = {"knn": "maximize", "macs": "minimize"}
WRITES = ("create_new_trial", "set_trial_user_attr", "set_trial_system_attr", "set_trial_param", "set_trial_state_values",
          "set_trial_intermediate_value")


class Cut(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """One storage a test, kept while ledgers come and go as processes would."""
    kept = {}
    monkeypatch.setattr(ledgers, "open_storage", lambda said, name: kept.setdefault(said, InMemoryStorage()))
    return kept


class Judge:
    """An evaluator of `size`**3 choices.  broken: point → exception of training, unbuilt: of choosing, unmeasured: of costs;
    counts epochs where they are trained.
    """

    def __init__(self, size: int = 4, broken=None, unbuilt=lambda p: False, unmeasured=lambda p: False):
        self.size, self.broken, self.done, self.spent, self.trained = size, broken or {}, {}, 0, []
        self.unbuilt, self.unmeasured, self.raised = unbuilt, unmeasured, []

    opening = None

    def choose(self, trial):
        point = [trial.suggest_categorical(name, list(range(self.size))) for name in "ab"]
        point.append(trial.suggest_int("c", 0, self.size - 1))
        self.refuse(point, self.unbuilt)
        return SimpleNamespace(json={"point": point}, hash=optuna_free_hash(point))

    def costs(self, choice):
        self.refuse(choice.json["point"], self.unmeasured)
        return {"macs": float(sum(choice.json["point"]))}

    def refuse(self, point, match):
        if match(point):
            self.raised.append(tuple(point))
            raise ValueError(f"no {point}")

    def advance(self, choice, entry, epochs, beat):
        assert entry.state == TrialState.RUNNING
        beat()
        for match, error in self.broken.items():
            if match(choice["point"]):
                raise error
        if choice["hash"] not in self.done:
            self.trained.append(choice["hash"])
        self.spent += epochs - self.done.get(choice["hash"], 0)
        self.done[choice["hash"]] = epochs
        return {"knn": worth(choice["hash"], epochs)}


def optuna_free_hash(point: list[int]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(point).encode()).hexdigest()[:16]


def plan(trials=12, sampler="tpe", rungs=3, limits=None, interval=0.001, seed=0) -> Plan:
    return Plan(trials, Halving.of(9, rungs, 3), OBJECTIVES, limits or {}, sampler, seed, interval)


def book(storage: str = "one") -> Ledger:
    return Ledger("study", storage, OBJECTIVES, {"a": 1})


def table(entries) -> list[tuple]:
    return [(e.number, e.state.name, e.hash, e.trial.params, e.rungs, e.reason, e.goal, e.trial.values if e.rungs else None,
             e.broken) for e in entries]


# ------------------------------------------------------------------------------------------------------------------ cuts


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_cut_at_any_write_and_gone_on_with_it_is_the_same_study(sampler, in_memory, monkeypatch):
    whole = same_when_cut(sampler, Judge, in_memory, monkeypatch)
    assert sum(e.choice["drawn"] > 1 for e in whole) > 1, "a limit should have had some drawn again"


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_cut_it_is_the_same_study_where_much_cannot_be_built(sampler, in_memory, monkeypatch):
    whole = same_when_cut(sampler, partly_built, in_memory, monkeypatch)
    assert sum(bool(e.broken) for e in whole) > 2


def partly_built() -> Judge:
    return Judge(unbuilt=lambda p: p[0] % 2 == 1, unmeasured=lambda p: p[1] == 0)


def same_when_cut(sampler, judged, in_memory, monkeypatch):
    monkeypatch.setattr(ledgers, "ATTEMPTS", 1000)  # signs of life are writes too: how many cuts meet one trial is the clock's
    limits = {"macs": 7.0}
    whole, judge = book("whole"), judged()
    Worker(whole, plan(sampler=sampler, limits=limits), judge).run()
    expected = table(whole.entries())
    assert {"COMPLETE", "PRUNED"} <= {row[1] for row in expected}
    dice, cuts = np.random.RandomState(0), 0
    for case in range(12):
        storage = f"cut {case}"
        cut_judge = judged()
        for _ in range(50):
            try:
                current = book(storage)
                monkeypatch.setattr(ledgers, "gone", lambda worker, me=current.me: worker != me)
                cutting(monkeypatch, in_memory[storage], dice.randint(1, 60), before=bool(dice.randint(2)))
                Worker(current, plan(sampler=sampler, limits=limits), cut_judge).run()
                break
            except Cut:
                cuts += 1
        assert table(book(storage).entries()) == expected
        assert cut_judge.spent == judge.spent  # checkpoints lie where they were: nothing is trained twice
    assert cuts > 24
    return whole.entries()


def test_a_search_begins_where_its_space_says(in_memory):
    judge = Judge()
    judge.opening = {"a": 2, "b": 3, "c": 1, "no_parameter_here": 0}
    Worker(book("first"), plan(), judge).run()
    points = [e.choice["point"] for e in book("first").entries()]
    assert points[0] == [2, 3, 1]
    assert points.count([2, 3, 1]) == 1


def test_what_a_search_begins_with_competes_with_no_candidates(in_memory):
    judge = Judge()
    judge.opening, judge.best = {"a": 2, "b": 3, "c": 1}, lambda choices: len(choices) - 1
    Worker(book(), replace(plan(), candidates=4), judge).run()
    assert book().entries()[0].choice["point"] == [2, 3, 1]


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_where_limits_refuse_what_a_search_begins_with_it_says_so_and_goes_on(sampler, in_memory, monkeypatch):
    def judged() -> Judge:
        judge = Judge()
        judge.opening = {"a": 3, "b": 3, "c": 3}
        return judge

    first, *others = same_when_cut(sampler, judged, in_memory, monkeypatch)
    assert first.choice["point"] == [3, 3, 3]
    assert (first.state, first.reason) == (TrialState.PRUNED, "the space begins beyond the limits: macs 9 > 7")
    assert not any(e.opening for e in others)
    assert sum(bool(e.rungs) for e in others) == 12
    assert f"trial 0 was refused: {first.reason}" in report.lines([first], plan(), "study")


def test_what_a_search_begins_with_and_cannot_be_built_fails_with_the_reason():
    judge, current = Judge(unbuilt=lambda p: p[0] == 3), book()
    judge.opening = {"a": 3, "b": 3, "c": 3}
    Worker(current, plan(4, rungs=1), judge).run()
    first, *others = current.entries()
    assert (first.state, first.reason) == (TrialState.FAIL, "ValueError: no [3, 3, 3]")
    assert [e.state for e in others] == [TrialState.COMPLETE] * 3


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


def test_a_signal_gives_the_trial_back_and_the_same_study_goes_on():
    whole = book("whole")
    Worker(whole, plan(), Judge()).run()
    part, judge = book("part"), Judge()
    for _ in range(40):
        worker = Worker(part, plan(interval=60), judge)
        calls = []

        def advance(*arguments, worker=worker, calls=calls):
            calls.append(1)
            worker.stop = len(calls) == 2
            return Judge.advance(judge, *arguments)

        worker.evaluator = SimpleNamespace(choose=judge.choose, costs=judge.costs, advance=advance, opening=None)
        try:
            worker.run()
            break
        except Stopped:
            assert not [e for e in part.entries() if e.state == TrialState.RUNNING]
    assert table(part.entries()) == table(whole.entries())


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "evolution", "random"])
def test_nothing_is_trained_twice_and_an_exhausted_space_ends_the_study(sampler):
    judge, current = Judge(size=3), book()
    trials = 12 if sampler == "gp" else 40
    Worker(current, plan(trials, sampler, rungs=1), judge).run()
    hashes = [e.hash for e in current.entries() if not e.refused]
    assert len(hashes) == len(set(hashes)) == len(judge.trained) == min(27, trials)
    if trials > 27:
        assert "tried" in current.entries()[-1].reason


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_nothing_is_trained_beyond_limits_and_late_proposals_keep_them(sampler):
    judge, current = Judge(size=12), book()
    Worker(current, plan(60, sampler, rungs=1, limits={"macs": 9.0}), judge).run()
    entries = current.entries()
    assert all(e.costs["macs"] <= 9 for e in entries if e.rungs)
    assert judge.spent == 60 * 9
    late = entries[len(entries) // 2 :]
    assert sum(not e.refused for e in late) / len(late) >= 0.9  # of all points: one in eight


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_three_hundred_trials_hold_no_duplicate_and_hardly_a_refusal(sampler):
    judge, current = Judge(size=16), book()
    Worker(current, plan(300, sampler, rungs=1, limits={"macs": 14.0}), judge).run()  # one point in six keeps within
    entries = current.entries()
    trained = [e for e in entries if e.rungs]
    assert len({e.hash for e in trained}) == len(trained) == 300
    assert len(judge.trained) == len(set(judge.trained)) == 300
    assert judge.spent == 300 * 9
    assert all(e.costs["macs"] <= 14 for e in trained)
    late = entries[len(entries) // 2 :]
    assert sum(not e.refused for e in late) / len(late) >= 0.9


def test_what_limits_leave_no_room_for_is_refused_with_the_reason():
    judge, current = Judge(size=4), book()
    Worker(current, plan(3, "random", rungs=1, limits={"macs": 0.0}), judge).run()
    refused = [e for e in current.entries() if e.refused and e.choice]
    assert len(judge.trained) == 1  # 0, 0, 0
    assert all(e.state == TrialState.PRUNED and e.trial.constraints["macs"] > 0 for e in refused)
    assert any(e.reason == f"macs {e.costs['macs']:.4g} > 0" for e in refused)
    assert len(refused) < 63
    assert "the last 10 trials were all beyond it, the nearest with macs" in current.entries()[-1].reason


def test_limits_that_nothing_keeps_end_the_study_soon_with_the_nearest_cost():
    judge, current = Judge(size=16), book()
    judge.costs = lambda choice: {"macs": 100.0 + sum(choice.json["point"])}
    Worker(current, plan(30, "random", limits={"macs": 5.0}), judge).run()
    *refused, last = current.entries()
    assert len(refused) == 10
    nearest = min(e.costs["macs"] for e in refused)
    assert last.reason == f"limit=macs:5: the last 10 trials were all beyond it, the nearest with macs {nearest:.4g}"
    assert f"ended: {last.reason}" in report.lines(current.entries(), plan(), "study")
    assert not judge.trained


def test_a_trial_that_fails_is_recorded_and_the_study_goes_on():
    broken = {lambda p: p[0] == 1: MemoryError("CUDA out of memory"), lambda p: p[1] == 2: RunError("the loss is nan")}
    current = book()
    Worker(current, plan(20, "random", rungs=1), Judge(broken=broken)).run()
    states = [e.state for e in current.entries()]
    assert states.count(TrialState.FAIL) > 2
    assert len(states) == 20
    reasons = {e.reason for e in current.entries() if e.state == TrialState.FAIL}
    assert reasons == {"MemoryError: CUDA out of memory", "RunError: the loss is nan"}


def test_where_nothing_succeeds_the_study_says_why():
    with pytest.raises(RunError, match="the first 5 trials all failed, the last one so: OSError: no space"):
        Worker(book(), plan(20), Judge(broken={lambda p: True: OSError("no space")})).run()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_what_cannot_be_built_is_remembered_and_another_is_drawn(sampler):
    """Three of four points; each is met once as something new, and no trial is lost to it."""
    judge, current = Judge(size=8, unbuilt=lambda p: p[0] % 2 == 1, unmeasured=lambda p: p[1] >= 4), book()
    Worker(current, plan(15, sampler, rungs=1), judge).run()
    entries = current.entries()
    assert [e.state for e in entries] == [TrialState.COMPLETE] * 15
    remembered = [tuple(said["params"].values()) for e in entries for said in e.broken]
    assert len(remembered) == len(set(remembered)) > 5
    assert set(remembered) == set(judge.raised)


def test_a_small_space_of_which_some_cannot_be_built_is_exhausted():
    judge, current = Judge(size=3, unbuilt=lambda p: p[2] == 2), book()
    Worker(current, plan(40, "random", rungs=1), judge).run()
    assert len(judge.trained) == len(set(judge.trained)) == 18
    assert "no more than 18 choices and 9 that cannot be built" in current.entries()[-1].reason


def test_where_nothing_can_be_built_the_study_says_why():
    judge, current = Judge(size=32, unbuilt=lambda p: True), book()
    with pytest.raises(RunError, match="the first 5 trials all failed, the last one so: ValueError: no "):
        Worker(current, plan(20), judge).run()
    assert [len(e.broken) for e in current.entries()] == [sampler.UNBUILT] * 5
    judge = Judge()
    judge.choose = lambda trial: {}["width"]
    with pytest.raises(RunError, match="the last one so: KeyError: 'width'"):
        Worker(book("at once"), plan(20), judge).run()


def test_an_objective_that_is_no_number_fails_its_trial():
    judge, current = Judge(), book()
    judge.advance = lambda choice, entry, epochs, beat: {"knn": float("nan") if entry.number % 2 else 1.0}
    Worker(current, plan(6, "random"), judge).run()
    assert [e.state == TrialState.FAIL for e in current.entries()] == [False, True] * 3


# ----------------------------------------------------------------------------------------------------------------- workers


def test_a_lost_worker_is_noticed_after_two_intervals_and_no_sooner(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(ledgers.time, "monotonic", lambda: clock[0])
    current, watch = book(), None
    id = current.begin()
    watch = Watch(current, 10)
    assert watch.look() == []
    clock[0] += 19
    current.beat(id)
    assert watch.look() == []
    clock[0] += 19.9
    assert watch.look() == []
    clock[0] += 0.2
    assert watch.look() == [0]
    assert current.entry(id).given_back
    with pytest.raises(ledgers.Lost):
        current.beat(id)
    with pytest.raises(ledgers.Lost):
        current.reach(id, [{"epochs": 1, "values": [1.0, 1.0], "figures": {}}])


def test_a_trial_whose_workers_are_lost_again_and_again_fails(monkeypatch):
    current = book()
    id = current.begin()
    monkeypatch.setattr(ledgers, "gone", lambda worker: True)
    for _ in range(ledgers.ATTEMPTS - 1):
        Watch(current, 10).look()
        assert current.claim(current.entry(id))
    Watch(current, 10).look()
    assert current.entry(id).state == TrialState.FAIL
    assert "lost" in current.entry(id).reason


def test_a_waiting_trial_is_claimed_once():
    current, other = book(), book()
    id = current.begin()
    current.pause(id)
    seen = current.entry(id)
    assert current.claim(seen)
    assert not other.claim(seen)


def test_another_configuration_may_not_join():
    book()
    with pytest.raises(ValueError, match="study=study was begun with other settings \\(a: 1 → 2\\); give another study"):
        Ledger("study", "one", OBJECTIVES, {"a": 2})


def corrected(objectives=OBJECTIVES) -> Ledger:
    return Ledger("study", "one", objectives, {"a": 2}, anew=True)


def test_a_study_that_trained_nothing_may_begin_again_with_other_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = ledgers.folder("study") / "trials" / "00000"
    left.mkdir(parents=True)
    with pytest.raises(RunError):
        Worker(book(), plan(20), Judge(broken={lambda p: True: OSError("no labels")})).run()
    with pytest.raises(ValueError, match="other settings"):
        Ledger("study", "one", OBJECTIVES, {"a": 2})  # a worker's: only the command itself may
    one = {"knn": "maximize"}
    current = corrected(one)
    assert (current.settings, current.entries()) == ({"a": 2}, [])
    assert not left.exists()
    assert (tmp_path / "runs" / "nas" / "study" / "trials-1" / "00000").is_dir()
    Worker(current, Plan(5, Halving.of(9, 1, 3), one, {}, "random", 0, 1.0), Judge()).run()
    assert sum(bool(e.rungs) for e in current.entries()) == 5


@pytest.mark.parametrize("at", ["work", "rest", "its first rung", "its supernet"])
def test_a_study_that_has_begun_to_train_takes_no_other_settings(at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    current = book()
    if at == "its supernet":
        (ledgers.folder("study") / "supernet").mkdir(parents=True)
    else:
        id = current.begin()
        if at == "rest":
            current.pause(id)
        if at == "its first rung":
            current.reach(id, [{"epochs": 1, "values": [1.0, 1.0], "figures": {}}])
            current.fail(id, "later")
    with pytest.raises(ValueError, match="study=study was begun with other settings \\(a: 1 → 2\\)"):
        corrected()


def test_more_trials_go_on_with_the_study():
    judge = Judge()
    Worker(book(), plan(5, "random", rungs=1), judge).run()
    Worker(book(), plan(9, "random", rungs=1), judge).run()
    assert len(book().entries()) == len(judge.trained) == 9
    whole = book("whole")
    Worker(whole, plan(9, "random", rungs=1), Judge()).run()
    assert table(book().entries()) == table(whole.entries())


# ----------------------------------------------------------------------------------------------------------------- halving


def test_rungs_are_geometric_and_promotion_costs_the_difference():
    assert Halving.of(9, 3, 3).rungs == (1, 3, 9)
    judge, current = Judge(size=6), book()
    Worker(current, plan(27, "random"), judge).run()
    reached = [len(e.rungs) for e in current.entries()]
    assert (reached.count(3), sum(n >= 2 for n in reached)) == (3, 9)
    assert judge.spent == sum((1, 3, 9)[n - 1] for n in reached)
    ends = [TrialState.COMPLETE if n == 3 else TrialState.PRUNED for n in reached]
    assert [e.state for e in current.entries()] == ends
    stayed = [e for e, n in zip(current.entries(), reached, strict=True) if n < 3]
    assert all("stayed behind" in e.reason for e in stayed)


def test_with_one_objective_a_third_is_sent_on_and_it_is_better_than_the_rest():
    one, judge = {"knn": "maximize"}, Judge(size=6)
    current = Ledger("study", "single", one, {})
    Worker(current, Plan(27, Halving.of(9, 2, 3), one, {}, "random", 0, 1.0), judge).run()
    first = sorted((e.rungs[0]["values"][0] for e in current.entries()), reverse=True)
    sent_on = [e.rungs[0]["values"][0] for e in current.entries() if len(e.rungs) == 2]
    assert len(sent_on) == 9
    assert len(set(first[:9]) & set(sent_on)) >= 6  # who came early had fewer to be better than
    assert current.entries()[first_index(current)].rungs[0]["values"][0] == max(sent_on)


def first_index(current) -> int:
    """The best of all after the first rung: it is always sent on."""
    return max(range(27), key=lambda i: current.entries()[i].rungs[0]["values"][0])
