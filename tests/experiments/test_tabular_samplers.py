"""Samplers at equal simulated cost: what a study has found, by when, and what studies amount to."""
import json

import pytest

from experiments import tabular_clock, tabular_samplers
from experiments.tabular_clock import BUDGET, Clock, Scores, rates
from nas.tabular import Table


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(tabular_samplers.TABLE)


@pytest.fixture(scope="module")
def scores(table) -> Scores:
    return Scores(table)


def test_the_front_is_all_there_is_to_find(table, scores):
    best = [h for h, v in scores.true.items() if not any((w <= v).all() and (w < v).any() for w in scores.true.values())]
    assert scores.share(scores.hashes) == pytest.approx(1)
    assert scores.share(best) == pytest.approx(1)
    assert all(scores.share([h for h in best if h != one]) < 1 for one in best)
    ends = [(10.0 * (i + 1), h) for i, h in enumerate(best)]
    found = scores.result(ends, 0)
    until = next(now for i, (now, _) in enumerate(ends) if scores.share(best[: i + 1]) >= 0.95)
    assert (found.seconds, found.found, found.trained) == (until, pytest.approx(1), len(best))
    assert found.declared <= 1
    assert scores.result([(BUDGET + 1, best[0]), *ends][1:2], 0).seconds is None


def test_noise_bounds_what_can_be_declared(scores):
    found = scores.ceiling()
    assert 0.9 < found["declared"] < 1
    assert found["regret"] >= 0


def test_simulated_time_is_the_tables_on_average(table):
    per_epoch = rates(table)
    assert sum(per_epoch.values()) * 9 * 2 / 3600 == pytest.approx(1.34)  # cpu_hours of its provenance
    clock, (one, other, *_) = Clock(table, 0, per_epoch), table.rows
    clock.train(one, 0, 3)
    clock.train(other, 0, 9)
    clock.train(one, 3, 9)
    assert clock.now == pytest.approx(9 * (per_epoch[one] + per_epoch[other]))
    assert [h for _, h in clock.ends] == [other, one]


def test_a_sampler_is_compared_by_the_seeds_that_both_have():
    def study(seconds, found):
        return {"seconds": seconds, "found": found, "declared": 0.9, "regret": 1.0, "trained": 60}

    studies = {
        "model, full": {"0": study(100.0, 0.97), "1": study(200.0, 0.96), "2": study(None, 0.9)},
        "tpe, full": {"0": study(300.0, 0.96), "1": study(None, 0.94), "7": study(50.0, 0.99)},
        "tpe, halved": {"0": study(10.0, 0.96)},
    }
    found = tabular_samplers.summary(studies)
    assert found["model, full"]["seconds"] == pytest.approx((300 + BUDGET) / 3)
    assert found["model, full"]["reached"] == pytest.approx(2 / 3)
    against = found["tpe, full"]["against_model"]
    assert (against["seeds"], against["times"], against["found"]) == (2, pytest.approx(3.0), pytest.approx(0.015))
    assert against["times_interval"][0] <= 3 <= against["times_interval"][1]
    assert "against_model" not in found["tpe, halved"]
    assert "against_model" not in found["model, full"]


def test_studies_are_added_to_the_kept_file_and_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(tabular_samplers, "run", lambda table, scores, rates, name, seed: ran.append((name, seed)) or
                        tabular_clock.Result(1.0 + seed, 0.96, 0.9, 0.5, 60))
    kept = tmp_path / "kept.json"
    for seeds, part in (("2", "0/1"), ("4", "1/2"), ("4", "0/1")):
        options = [f"--seeds={seeds}", f"--part={part}", f"--kept={kept}", "--studies", "random, full", "model, full"]
        assert tabular_samplers.main(options) == 0
    assert sorted(ran) == [(name, seed) for name in ("model, full", "random, full") for seed in range(4)]
    document = json.loads(kept.read_text())
    assert document["summary"]["random, full"]["seconds"] == 2.5
    assert document["studies"]["model, full"]["3"]["seconds"] == 4.0
