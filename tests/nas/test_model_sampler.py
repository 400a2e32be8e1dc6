"""The learnt sampler: gains against Optuna's hypervolume, derivatives against differences, and studies that resume the same."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from scipy.optimize import approx_fprime

from nas import posterior, proposals
from nas.observation import Fresh, Observation
from nas.pareto import front, hypervolume, hypervolume_gains, nondominated_sort
from nas.posterior import Figures, descriptors
from nas.proposals import Request, propose
from nas.samplers import model
from nas.samplers.model import Model, figures_of, fitted
from nas.scheduler import Worker
from nas.store import TrialStore
from nas.trial_record import SampledParams
from tests.nas.test_scheduler import FakeEvaluator, config, in_memory, same_when_cut  # noqa: F401

OBJECTIVES = {"knn": "maximize", "macs": "minimize"}
SPACE = {"a": IntDistribution(0, 7), "b": CategoricalDistribution((1, 2, 4, 8))}


def observation(number: int, a: int, b: int, knn: float | None, pending: bool = False) -> Observation:
    costs = {"macs": float(b * (1 + a)), "parameters": float(b)}
    rungs = [] if knn is None else [[knn, costs["macs"]]]
    values = None if knn is None else [knn, np.log(costs["macs"])]
    return Observation(number, f"{a}-{b}", SampledParams({"a": a, "b": b}, SPACE), values, {}, pending, costs, rungs)


def observed(count: int = 16) -> list[Observation]:
    dice = np.random.RandomState(0)
    points = [(a, b) for a, b in itertools.product(range(8), (1, 2, 4, 8))]
    return [observation(i, *points[j], 60 + points[j][0] + points[j][1] + dice.randn())
            for i, j in enumerate(dice.permutation(len(points))[:count])]


# ------------------------------------------------------------------------------------------------------------ what it rests on


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("count", [0, 1, 8, 40])
def test_gains_are_differences_of_optunas_hypervolume(objectives, count):
    dice, reference = np.random.RandomState(count), np.ones(objectives)
    values, points = dice.rand(count, objectives) * 1.2, dice.rand(20, objectives) * 1.2
    if count == 40:
        values, points = values.round(1), points.round(1)  # ties
    before = hypervolume(values, reference)
    after = [hypervolume(np.vstack([values, point]), reference) - before for point in points]
    assert hypervolume_gains(values, points, reference) == pytest.approx(after, abs=1e-12)


def test_of_one_objective_the_gain_is_over_the_best():
    gains = hypervolume_gains(np.array([[3.0], [2.0]]), np.array([[1.5], [2.0], [9.0]]), np.array([10.0]))
    assert gains.tolist() == [0.5, 0.0, 0.0]


def test_the_front_is_the_first_of_the_sorted_ones():
    values = np.random.RandomState(0).randint(0, 6, (60, 3)).astype(float)  # with duplicates
    assert front(values) == nondominated_sort(values)[0]
    assert front(np.empty((0, 2))) == []


@pytest.mark.parametrize("replicated", [False, True])
def test_the_likelihoods_derivatives_are_its_differences(replicated, monkeypatch):
    dice = np.random.RandomState(0)
    rows = [(i, 0, rung, dice.randn()) for rung in range(3) for i in range(12 // 3**rung)]
    rows += [(0, 1, 2, dice.randn())] * replicated
    figures, caught = Figures(dice.randn(12, 3), *map(np.array, zip(*rows, strict=True))), {}
    monkeypatch.setattr(posterior, "minimize", lambda loss, start, **rest: caught.update(loss=loss) or SimpleNamespace(x=start))
    posterior.fit(figures)
    at = dice.randn(3 + 2 + 3) * 0.3
    differences = approx_fprime(at, lambda t: caught["loss"](t)[0], 1e-6)
    assert caught["loss"](at)[1] == pytest.approx(differences, rel=1e-4, abs=1e-4)


def test_what_is_described_of_known_candidates_does_not_depend_on_the_pool():
    known = observed()
    params, costs = [o.params for o in known], [o.costs for o in known]
    extra = SampledParams({"a": 3, "new": 5}, SPACE | {"new": IntDistribution(0, 9)})  # without b, with one that none has
    both = descriptors([*params, extra], [*costs, {"macs": 500.0, "parameters": 9.0}], len(known))
    alone = descriptors(params, costs)
    assert both.shape[1] == alone.shape[1] + 1
    assert np.isfinite(both).all()
    same = [i for i in range(both.shape[1]) if both[: len(known), i].any()]
    assert both[: len(known), same] == pytest.approx(alone, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------------ the model


def test_too_little_known_or_costs_alone_is_no_model():
    known = observed()
    assert fitted(known[: model.LEAST_KNOWN - 1], OBJECTIVES, 0) is None
    assert fitted(known, {"macs": "minimize", "parameters": "minimize"}, 0) is None
    assert fitted([replace(o, violations={"macs": 1.0}) for o in known], OBJECTIVES, 0) is None
    assert fitted(known, OBJECTIVES, 0) is not None


def test_what_was_not_trained_is_part_of_it():
    """A failed trial counts as the worst, one in training has no figure, fresh seeds count as seeds."""
    known = [replace(one, fresh=[Fresh(2, [90.0, 1.0])]) if one.number == 3 else one for one in observed()]
    found = fitted([*known, observation(90, 7, 1, None), observation(91, 6, 1, None, pending=True)], OBJECTIVES, 0)
    candidate, seed, rung, value = figures_of(found.known, 0, "maximize")
    rows = {*zip(candidate.tolist(), seed.tolist(), rung.tolist(), value.tolist(), strict=True)}
    assert len(rows) == len(known) + 2
    assert (3, 2, 0, 90.0) in rows
    assert (16, 0, 0, min(o.rungs[0][0] for o in known)) in rows
    assert 17 not in candidate


def test_one_in_training_leaves_little_to_gain_by_its_like():
    known, twin = [one for one in observed(24) if one.hash != "7-8"], observation(98, 7, 8, None)
    waiting = Model(known, [observation(97, 7, 8, None, pending=True)], OBJECTIVES, 0)
    gains = [one._gains([twin])[0] for one in (Model(known, [], OBJECTIVES, 0), waiting)]
    assert gains[0] > 0
    assert gains[1] < 1e-2 * gains[0]  # the jitter lets the two differ by a thousandth of the standard deviation


def test_it_chooses_what_is_best_where_figures_have_little_noise():
    """knn = 60 + a + b, and costs are b (1 + a): the most of one objective; of two, a cost's best, which no other dominates."""
    known = [one for one in observed(24) if one.hash not in ("7-8", "7-1")]
    pool = [observation(90 + i, a, b, None) for i, (a, b) in enumerate([(0, 1), (0, 8), (7, 8), (4, 2)])]
    assert fitted(known, {"knn": "maximize"}, 0).best(pool, 1)[0].hash == "7-8"
    pool = [observation(90 + i, a, b, None) for i, (a, b) in enumerate([(0, 4), (5, 2), (7, 1), (3, 4)])]
    assert fitted(known, OBJECTIVES, 0).best(pool, 1)[0].hash == "7-1"


# ---------------------------------------------------------------------------------------------------------------------- studies


class Additive(FakeEvaluator):
    """Figures are a sum of the parameters, and some luck; a third parameter only where the first is large."""

    def sample(self, trial):
        point = [trial.suggest_int("a", 0, 7), trial.suggest_categorical("b", [0, 1, 2, 3])]
        point.append(trial.suggest_int("c", 0, 7) if point[0] > 3 else 0)
        return SimpleNamespace(json={"point": point}, hash="-".join(map(str, point)))

    def costs(self, candidate):
        a, b, c = candidate.json["point"]
        return {"macs": float(1 + a + c), "parameters": float(1 + b)}

    def advance(self, candidate, record, epochs, heartbeat):
        super().advance(candidate | {"hash": "00"}, record, epochs, heartbeat)
        a, b, c = candidate["point"]
        return {"knn": 50 + a + 3 * b + c + np.random.RandomState(a + 8 * b + 32 * c).randn()}


def test_a_study_finds_the_best_sooner_than_at_random():
    """Of one objective: the mean over seeds of the best true value after 24 of 144 candidates."""
    best = {}
    for sampler in ("model", "random"):
        best[sampler] = []
        for seed in range(2):
            store = TrialStore("study", InMemoryStorage(), {"knn": "maximize"}, {})
            one = replace(config(24, sampler, rungs=1, seed=seed), objectives={"knn": "maximize"})
            Worker(store, one, Additive()).run()
            best[sampler].append(max(a + 3 * b + c for a, b, c in (r.candidate["point"] for r in store.records())))
    assert np.mean(best["model"]) > np.mean(best["random"]) + 1
    assert max(best["model"]) >= 22  # of 23


def test_limits_are_kept_and_nothing_is_trained_twice():
    store, evaluator = TrialStore("study", InMemoryStorage(), OBJECTIVES, {}), Additive()
    Worker(store, config(26, "model", rungs=3, limits={"macs": 9.0}), evaluator).run()
    records = [r for r in store.records() if r.rungs]
    assert len({r.hash for r in records}) == len(records) == 26
    assert max(r.costs["macs"] for r in records) <= 9
    assert sum(r.candidate["drawn"] > 1 for r in records[13:]) > 10  # of a pool


def test_an_exhausted_space_ends_the_study():
    store, evaluator = TrialStore("study", InMemoryStorage(), OBJECTIVES, {}), FakeEvaluator(size=3)
    Worker(store, config(40, "model", rungs=1), evaluator).run()
    assert len(evaluator.trained) == len(set(evaluator.trained)) == 27
    assert "tried" in store.records()[-1].reason


def test_until_enough_is_known_it_is_tpe():
    source = Additive()
    source.pick_best = lambda candidates: 0
    known = observed(model.LEAST_KNOWN - 1)
    found = {name: propose(source, Request(20, name, OBJECTIVES), known).params.values for name in ("model", "tpe")}
    assert found["model"] == found["tpe"]


def test_the_same_observations_give_the_same_proposal_and_other_workers_another():
    source, known = Additive(), observed()
    first, again = (propose(source, Request(20, "model", OBJECTIVES), known) for _ in range(2))
    assert (first.params, first.draws) == (again.params, again.draws)
    pending = Observation(20, first.candidate.hash, first.params, None, {}, True, first.costs)
    assert propose(source, Request(21, "model", OBJECTIVES), [*known, pending]).candidate.hash != first.candidate.hash


def test_interrupted_at_any_write_it_resumes_to_the_same_study(in_memory, monkeypatch):  # noqa: F811
    monkeypatch.setattr(model, "LEAST_KNOWN", 5)
    monkeypatch.setattr(model, "DRAWS", 8)
    monkeypatch.setattr(proposals, "POOL", 5)
    whole = same_when_cut("model", FakeEvaluator, in_memory, monkeypatch)
    assert sum(r.candidate["drawn"] > 1 for r in whole[5:]) > 2, "a model should have chosen from a pool"
