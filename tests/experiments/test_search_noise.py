"""The noise behind the kept search figures is what experiments/tabular/noise.json says, and docs/search.md says it."""
import json

import numpy as np
import pytest
from commands import ROOT

from experiments import search_noise
from nas.pareto import front

LAST_PLACE = 1.5e-3  # kept to three decimals: another machine's last bit may round the other way


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(search_noise.OUT.read_text())


def flat(found, name: str = "") -> dict[str, float]:
    if isinstance(found, (dict, list)):
        parts = found.items() if isinstance(found, dict) else enumerate(found)
        return {key: value for part, inner in parts for key, value in flat(inner, f"{name}/{part}").items()}
    return {name: found}


def test_the_kept_figures_are_what_the_kept_tables_give(kept):
    found = flat(search_noise.figures())
    assert found == pytest.approx({name: flat(kept)[name] for name in found}, abs=LAST_PLACE)


def test_a_ceiling_is_what_the_true_values_themselves_reach():
    dice, count = np.random.RandomState(0), 200_000
    true, (one, other) = dice.randn(count), 1.3 * dice.randn(2, count)
    r = np.corrcoef(true + one, true + other)[0, 1]
    known = np.corrcoef(true, true + (one + other) / 2)[0, 1]
    assert search_noise.ceiling(r) == pytest.approx(known, abs=5 / count**0.5)  # five standard errors of a correlation
    assert search_noise.ceiling(r, 1) == pytest.approx(np.corrcoef(true, true + one)[0, 1], abs=5 / count**0.5)
    assert search_noise.ceiling(-0.1) == 0


def test_the_fast_front_is_the_front():
    dice = np.random.RandomState(0)
    for _ in range(50):
        points = np.stack([dice.permutation(40), dice.permutation(40)], 1).astype(float)
        assert sorted(search_noise.front_rows(points)) == sorted(front(points))


def test_the_page_says_what_bounds_each_search_figure(kept):
    text = " ".join((ROOT / "docs" / "search.md").read_text().split()).replace("*", "")
    table, volume, supernet = kept["table"], kept["hypervolume"]["chance"], kept["supernet"]
    best = [kept["optimism"][count]["best"] for count in ("24", "64")]
    cheapest = [round(share * 100) for share in volume["cheapest_alone"]]
    for said in (
        f"Two seeds of the same network agree by no more than {short(table['pearson'])}",
        f"expected to exceed {short(table['ceiling'])}",
        f"multiply-adds alone are at {kept['proxies']['macs']['share_of_ceiling']:.0%} of it".replace("%", " %"),
        f"AZ-NAS at {kept['proxies']['az']['share_of_ceiling']:.0%}".replace("%", " %"),
        f"{min(cheapest)} to {max(cheapest)} % of it belongs to the cheapest network",
        f"R² {short(volume['explained_by_cheapest_drawn'])}",
        f"{best[0]:.1f} (of 24) or {best[1]:.1f} points (of 64)",
        f"ceiling of about {short(supernet['all']['ceiling'])}",
        f"by {supernet['gain']:.1f} points",
    ):
        assert said in text, said
    assert "over both together" not in text


def short(value: float) -> str:
    return f"{value:.2f}".lstrip("0")


def test_the_guide_has_the_kept_promises():
    document = json.loads(search_noise.PROMISES.read_text())
    kept = [document[name] for name, *_ in search_noise.REPLAYED]
    assert [(one["networks"], tuple(one["rungs"])) for one in kept] == [one[1:] for one in search_noise.REPLAYED]
    guide = " ".join((ROOT / "docs" / "search.md").read_text().split())
    measured, expected = ([one[name] for one in kept] for name in ("measured", "expected"))
    assert f"figure is {min(measured):.1f} to {max(measured):.1f} points above" in guide
    assert f"what is expected of it {min(expected):.1f} to {max(expected):.1f}" in guide
    gains = [f"{one['gain']:.1f}" for one in kept]
    assert f"by {gains[2]} and {gains[3]} points after halving of 64 and 128 networks, by {gains[0]} and {gains[1]}" in guide
    promoted = [f"{one['last_rung']:.1f}" for one in document["promotion"].values()]
    assert f"last rung of 64 and 128 are {promoted[0]} and {promoted[1]} points better" in guide
    assert all(one["last_rung_interval"][0] > 0 for one in document["promotion"].values())
    assert [one["gain_interval"][0] > 0 for one in kept] == [False, False, True, True]


def test_a_replay_is_a_study_by_halving():
    """Networks whose figure is their rank in both seeds: the best wins, by either rule."""
    curves = np.stack([np.linspace(0, 9, 27)] * 9, axis=1)
    own, fresh, _, again = search_noise._winners(np.linspace(-1, 1, 27)[:, None], curves, curves[:, -1], (1, 3, 9))
    assert (own, fresh, again) == (0, 9, 9)
