"""Replicates with fresh seeds: as many as asked, of the same candidates wherever the search was cut, and apart from trials."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.trial import TrialState

from core import cli
from nas import lease, noise_report
from nas.halving import Halving
from nas.scheduler import Worker
from nas.search_config import ONE_TOO_MANY, SearchConfig
from nas.study import TOOL, planned_config
from nas.trial_record import Replicate
from nas.verification import finalists, wanted
from tests.nas.test_scheduler import Cut, FakeEvaluator, config, cutting, in_memory, open_store, table  # noqa: F401


class Seeded(FakeEvaluator):
    """Figures that depend on the seed too; each candidate and seed is trained once."""

    def advance(self, candidate, record, epochs, heartbeat):
        seed = record.replicate.seed if record.replicate else 0
        key = f"{candidate['hash']}-{seed}"
        heartbeat()
        self.spent += epochs - self.done.get(key, 0)
        self.done[key] = epochs
        return {"knn": 50 + int(candidate["hash"][:2], 16) / 10 + seed + epochs / 9}


def verified(verify: int = 2, **options) -> SearchConfig:
    return replace(config(**options), verify=verify)


def replicates(store) -> list[tuple]:
    return sorted((r.replicate.of, r.replicate.seed, r.state.name, r.hash, tuple(r.rungs[-1].values), len(r.rungs))
                  for r in store.replicates() if r.state != TrialState.PRUNED)


def test_the_best_of_the_front_are_trained_again_to_the_end(in_memory):  # noqa: F811
    plain, store = open_store("plain"), open_store("verified")
    Worker(plain, config(), Seeded()).run()
    Worker(store, verified(), Seeded()).run()
    assert table(store.records()) == table(plain.records()), "replicates change nothing of the trials"
    best = finalists(store.records(), verified())
    found = replicates(store)
    assert [(of, seed) for of, seed, *_ in found] == sorted((r.number, seed) for r in best for seed in (1, 2))
    assert 1 <= len(best) <= 3
    assert {(state, rungs) for _, _, state, _, _, rungs in found} == {("COMPLETE", 1)}
    own = {r.number: (r.hash, r.rungs[-1].values[0]) for r in best}
    assert all((hash, values[0]) == (own[of][0], pytest.approx(own[of][1] + seed)) for of, seed, _, hash, values, _ in found)


def test_cut_at_any_write_it_makes_the_same_replicates(in_memory, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lease, "MAX_EXPIRED_LEASES", 1000)  # heartbeats are writes too
    whole, evaluator = open_store("whole"), Seeded()
    Worker(whole, verified(), evaluator).run()
    dice, cuts = np.random.RandomState(1), 0
    for case in range(6):
        storage, cut_evaluator = f"cut {case}", Seeded()
        for _ in range(60):
            try:
                store = open_store(storage)
                monkeypatch.setattr(lease, "process_ended", lambda worker, me=store.worker: worker != me)
                cutting(monkeypatch, in_memory[storage], dice.randint(1, 60), before=bool(dice.randint(2)))
                Worker(store, verified(), cut_evaluator).run()
                break
            except Cut:
                cuts += 1
        store = open_store(storage)
        assert table(store.records()) == table(whole.records())
        assert replicates(store) == replicates(whole)
        assert cut_evaluator.spent == evaluator.spent
    assert cuts > 12


def test_more_may_be_asked_for_later(in_memory):  # noqa: F811
    store, evaluator = open_store(), Seeded()
    Worker(store, verified(1), evaluator).run()
    before = replicates(store)
    Worker(store, verified(3), evaluator).run()
    assert {*before} < {*replicates(store)}
    assert len(replicates(store)) == 3 * len(before)
    assert wanted(store.records(), store.replicates(), verified(3)) == []


def test_of_two_that_workers_create_at_once_one_is_left(in_memory):  # noqa: F811
    store = open_store()
    Worker(store, config(), Seeded()).run()
    [first, *_] = wanted(store.records(), [], verified(1))
    worker = Worker(store, verified(1), Seeded())
    ids = [worker._create_replicate(first) for _ in range(2)]
    assert ids[1] == -1
    [kept, rejected] = store.replicates()
    assert (kept.id, kept.state, kept.replicate) == (ids[0], TrialState.RUNNING, Replicate(first.record.number, 1))
    assert rejected.reason == ONE_TOO_MANY


def test_one_that_fails_is_not_tried_for_ever(in_memory):  # noqa: F811
    class Failing(Seeded):
        def advance(self, candidate, record, epochs, heartbeat):
            if record.replicate:
                raise RuntimeError("no memory")
            return super().advance(candidate, record, epochs, heartbeat)

    store = open_store()
    Worker(store, verified(1), Failing()).run()
    assert {r.state for r in store.replicates()} == {TrialState.FAIL}


def test_the_report_counts_them_by_trial(in_memory):  # noqa: F811
    store = open_store()
    Worker(store, verified(2, trials=27), Seeded()).run()
    fresh = noise_report.fresh_values(store.replicates(), 0)
    own = {r.number: r.rungs[-1].values[0] for r in store.records() if r.rungs}
    assert fresh
    assert all(values == pytest.approx([own[of] + 1, own[of] + 2]) for of, values in fresh.items())
    (sentence,) = noise_report.verdict(store.records(), store.replicates(), verified(), None)
    assert "Each figure is one training" in sentence
    assert noise_report.blocks(store.records(), store.replicates(), verified(), None) == []


class Lucky(Seeded):
    """Of two parameters one decides; the figure of a training is mostly luck."""

    def costs(self, candidate):
        return super().costs(candidate) | {"parameters": float(1 + candidate.json["point"][0])}

    def advance(self, candidate, record, epochs, heartbeat):
        super().advance(candidate, record, epochs, heartbeat)
        return {"knn": 50 + 2 * candidate["point"][0] + int(candidate["hash"][:2], 16) / 16}


def test_trials_are_promoted_by_what_is_expected_of_them(in_memory):  # noqa: F811
    """The rule by figures takes the lucky ones; both promote as many, and a study cut anywhere promotes the same."""
    one = SearchConfig(36, Halving.of(9, 3, 3), {"knn": "maximize"}, {}, "random", 0, 3600.0)
    means = {}
    for promote in ("measured", "expected"):
        store = open_store(promote, {"knn": "maximize"})
        Worker(store, replace(one, promote=promote), Lucky()).run()
        last = [r for r in store.records() if len(r.rungs) == 3]
        means[promote] = len(last), np.mean([r.candidate["point"][0] for r in last])
    assert means["expected"][0] == means["measured"][0]
    assert means["expected"][1] > means["measured"][1]
    again = open_store("again", {"knn": "maximize"})
    for _ in range(200):
        worker = Worker(again, replace(one, promote="expected"), Lucky())
        worker.monitor.release_expired()
        id = worker.next()
        if id is None:
            break
        worker.work(id)
    expected = open_store("expected", {"knn": "maximize"})
    assert table(again.records()) == table(expected.records())


def test_an_older_study_goes_on_by_what_was_measured(in_memory):  # noqa: F811
    settings = cli.compose(TOOL, ["study=study", "data=digits"])
    store = open_store()
    assert planned_config(settings, SimpleNamespace(has_plan=False, promote=store.promote), None).promote == "expected"
    assert planned_config(settings, SimpleNamespace(has_plan=False, promote="measured"), None).promote == "measured"
    store.study.set_user_attr("promote", None)
    assert open_store().promote == "measured"
