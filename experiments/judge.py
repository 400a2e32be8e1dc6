"""Compares samplers, successive halving and proxies on the tabular benchmark (experiments/tabular.py).

    uv run python -m experiments.judge            # --seeds 20; half an hour, most of it GP's
    uv run python -m experiments.judge --samplers tpe nsga2 evolution --seeds 100 --kept experiments/tabular/samplers.json

A tool of its own because no command searches in a table; a cell of the three tables *_on_the_tabular_benchmark.
Hypervolume: of accuracy and log₁₀ multiply-adds, as a share of what the reference study reaches; from chance (10 %) and,
harsher, from the worst accuracy that any architecture of the table ends with. From chance, the cheapest architecture that was
drawn decides nearly all of it; what the table's noise allows to conclude is in experiments/search_noise.py. Kept in
experiments/tabular/judged.json; tables show it.
"""
import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optuna.storages import InMemoryStorage
from rich.progress import track
from scipy.stats import spearmanr

from core import checkpoint, cli
from core.machine import provenance_of
from experiments.tabular import KEPT, SEEDS, WORDS, choices
from nas import proxies
from nas.evaluators import proxy_score
from nas.halving import Halving
from nas.pareto import hypervolume
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.settings import PROXIES, SAMPLERS
from nas.store import TrialStore
from nas.tabular import Table, TableEvaluator
from ssl.pretrain import TOOL
from vision import datasets

OUT = KEPT.with_name("judged.json")
OBJECTIVES = {"knn": "maximize", "macs": "minimize"}
SAMPLED, HALVED = 64, 128  # trials of a study
SCHEDULES = {"1, 3, 9 epochs, a third each": ((1.0, 3.0, 9.0), 3), "1, 2, 4, 9 epochs, a half each": ((1.0, 2.0, 4.0, 9.0), 2)}


def study(table: Table, sampler: str, trials: int, rungs: tuple, factor: int, seed: int) -> tuple[np.ndarray, float]:
    """→ (−accuracy and log₁₀ multiply-adds of all that it trained, epochs)."""
    store, evaluator = TrialStore("judged", InMemoryStorage(), OBJECTIVES, {}), TableEvaluator(table, seed % len(SEEDS))
    Worker(store, SearchConfig(trials, Halving(rungs, factor), OBJECTIVES, {}, sampler, seed, 3600.0), evaluator).run()
    ends = [r.rungs[-1].values for r in store.records() if r.rungs]
    return np.array([[-accuracy, np.log10(macs)] for accuracy, macs in ends]), evaluator.spent


def references(table: Table) -> dict[str, np.ndarray]:
    last = [curve[-1] for row in table.rows.values() for curve in row["knn"]]
    dearest = np.log10(max(row["macs"] for row in table.rows.values())) + 1e-6
    return {"chance": np.array([-10.0, dearest]), "worst": np.array([-min(last), dearest])}


def whole(table: Table, seed: int) -> np.ndarray:
    """Every architecture, trained to the end."""
    return np.array([[-row["knn"][seed][-1], np.log10(row["macs"])] for row in table.rows.values()])


def samplers(table: Table, seeds: int, names: Sequence[str] = SAMPLERS) -> dict:
    """Share of the whole table's hypervolume after 64 of its 256 architectures, all trained to the end."""
    found, points = {}, references(table)
    every = {name: [hypervolume(whole(table, s % len(SEEDS)), r) for s in range(seeds)] for name, r in points.items()}
    for sampler in names:
        values = [study(table, sampler, SAMPLED, (9.0,), 3, s)[0] for s in track(range(seeds), sampler)]
        found[sampler] = {
            name: [hypervolume(v, r) / e for v, e in zip(values, every[name], strict=True)] for name, r in points.items()
        }
    return found


def schedules(table: Table, seeds: int) -> dict:
    """Against the same proposals all trained to the end: share of hypervolume and of epochs."""
    found, points = {}, references(table)
    for sampler in ("random", "tpe"):
        full = [study(table, sampler, HALVED, (9.0,), 3, s) for s in track(range(seeds), f"{sampler}, to the end")]
        for name, (rungs, factor) in SCHEDULES.items():
            part = [study(table, sampler, HALVED, rungs, factor, s) for s in track(range(seeds), f"{sampler}, {name}")]
            found[f"{sampler}, {name}"] = {
                **{n: [hypervolume(p[0], r) / hypervolume(f[0], r) for p, f in zip(part, full, strict=True)]
                   for n, r in points.items()},
                "epochs": [p[1] / f[1] for p, f in zip(part, full, strict=True)],
            }
    return found


def rho(found, truth: np.ndarray) -> list[float]:
    """Spearman's, and a 95 % interval from 1,000 bootstrap samples: [ρ, low, high]."""
    found, dice = np.array(found), np.random.RandomState(0)
    draws = [dice.randint(0, len(truth), len(truth)) for _ in range(1000)]
    again = [spearmanr(found[d], truth[d]).statistic for d in draws]
    return [float(v) for v in (spearmanr(found, truth).statistic, *np.quantile(again, [0.025, 0.975]))]


def ranked(table: Table) -> dict:
    """Spearman's ρ of each proxy with the accuracy at the end (mean over seeds), over all architectures."""
    settings, data = cli.compose(TOOL, list(WORDS)), datasets.load("fashion_mnist", seed=0)
    scores: dict[str, list] = {name: [] for name in PROXIES}
    seconds = dict.fromkeys(PROXIES, 0.0)
    for _, choice in track(choices(), "proxies"):
        for name in PROXIES:
            start = time.perf_counter()
            scores[name].append(proxy_score(name, choice, settings, data))
            seconds[name] += time.perf_counter() - start
    scores["az"] = proxies.az_score(scores["az"])
    truth = np.array([table.knn(choice.hash, table.epochs) for _, choice in choices()])
    out = {}
    for name, found in scores.items():
        middle, low, high = rho(found, truth)
        milliseconds = round(seconds[name] / len(truth) * 1e3, 1)
        out[name] = {"rho": middle, "low": low, "high": high, "milliseconds": milliseconds}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, help="these alone, beside random; no schedules, no proxies")
    parser.add_argument("--kept", type=Path, default=OUT, help="the JSON of kept figures")
    given = parser.parse_args()
    if given.samplers and given.kept.resolve() == OUT:
        parser.error("--samplers: figures of some are kept in another file, with --kept")
    table = Table(KEPT)
    if given.samplers:
        kept = {"samplers": samplers(table, given.seeds, [s for s in SAMPLERS if s in (*given.samplers, "random")])}
    else:
        kept = {"samplers": samplers(table, given.seeds), "schedules": schedules(table, given.seeds), "proxies": ranked(table)}
    kept |= provenance_of(range(given.seeds), ("torch", "timm", "optuna")) | {"architectures": len(table.rows)}
    given.kept.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(given.kept, json.dumps(kept, indent=1) + "\n")
    print(given.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
