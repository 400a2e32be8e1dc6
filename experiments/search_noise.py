"""Computes what the kept search figures can show: the noise of the tables behind them.

    uv run python -m experiments.search_noise                # seconds; trains nothing
    uv run python -m experiments.search_noise --promises     # minutes: what nas/posterior.py makes of replayed studies

A script and no table, because it reads kept files and runs no tool: experiments/tabular/fashion_mnist.json (256 networks × 2
seeds), judged.json beside it, and experiments/supernet/fashion_mnist.json (48 of the networks as parts of supernets). Writes
experiments/tabular/noise.json, or promises.json.

Ceiling: the best Pearson correlation with the mean of k seeds that any predictor can be expected to reach, even one that knows
each network's true accuracy: the square root of the reliability k r / (1 + (k − 1) r), where r is the correlation of two seeds
(Spearman–Brown). Intervals are of 95 %, from 2,000 bootstrap samples of the networks.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import optuna
from rich.progress import track
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from core import checkpoint
from core.machine import provenance_of
from experiments.judge import references, whole
from experiments.tabular import KEPT, SEEDS, SIZE
from nas.pareto import front, hypervolume
from nas.posterior import Figures, descriptors, expected
from nas.space import tabular
from nas.tabular import Table
from nas.trial_record import SampledParams

OUT = KEPT.with_name("noise.json")
PROMISES = KEPT.with_name("promises.json")
JUDGED = KEPT.with_name("judged.json")
SUPERNET = KEPT.parent.parent / "supernet" / KEPT.name
DRAWS = 2_000  # bootstrap samples, and studies drawn from the table
STUDIES = (24, 64)  # networks of a study
REPLAYS, PROMOTED = 200, 100
REPLAYED = (  # name, networks, epochs of each rung
    ("24, all to the end", 24, (9,)), ("64, all to the end", 64, (9,)), ("64, a third each", 64, (1, 3, 9)),
    ("128, a third each", 128, (1, 3, 9)),
)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(pearsonr(a, b).statistic)


def ceiling(r: float, seeds: int = 2) -> float:
    """0 where two seeds do not agree at all."""
    return float(np.sqrt(max(0.0, seeds * r / (1 + (seeds - 1) * r))))


def interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, [0.025, 0.975])]


def bootstrap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Their Pearson correlation in bootstrap samples of the networks."""
    samples = np.random.RandomState(0).randint(0, len(one), (DRAWS, len(one)))
    return np.array([np.corrcoef(one[sample], other[sample])[0, 1] for sample in samples])


def agreement(one: np.ndarray, other: np.ndarray) -> dict:
    """Of two seeds of the same networks, and the ceiling that follows."""
    r, drawn = correlation(one, other), bootstrap(one, other)
    return {
        "networks": len(one), "pearson": r, "spearman": float(spearmanr(one, other).statistic),
        "kendall": float(kendalltau(one, other).statistic), "pearson_interval": interval(drawn),
        "ceiling": ceiling(r), "ceiling_interval": [ceiling(v) for v in interval(drawn)],
        "ceiling_from_ranks": ceiling(float(spearmanr(one, other).statistic)),
        "ceiling_against_one_seed": ceiling(r, 1), "ceiling_by_seeds": {str(k): ceiling(r, k) for k in (4, 6, 8)},
    }


# --------------------------------------------------------------------------------------------------------------- the table


def truth(table: Table) -> dict:
    one, other = final(table)
    variance = float(np.var(one - other, ddof=1) / 2)
    return agreement(one, other) | {
        "noise_variance": variance, "true_variance": float(np.cov(one, other)[0, 1]), "noise_std": float(np.sqrt(variance)),
    }


def final(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy at the end, by seed."""
    return tuple(np.array([table.knn(hash, table.epochs, seed) for hash in table.rows]) for seed in SEEDS)


def proxies(table: Table, top: float) -> dict:
    """Kept correlations beside the ceiling; of multiply-adds also after each seed."""
    kept = json.loads(JUDGED.read_text())["proxies"]
    macs = np.array([row["macs"] for row in table.rows.values()])
    return {name: {"rho": result["rho"], "share_of_ceiling": result["rho"] / top} for name, result in kept.items()} | {
        "macs_against_one_seed": [float(spearmanr(macs, seed).statistic) for seed in final(table)],
    }


def rungs(table: Table) -> list[dict]:
    """Accuracy after each epoch as a predictor of the end, of the same seed and of the other: Spearman's ρ, mean of both."""
    ends, result = final(table), []
    for epoch in range(1, table.epochs + 1):
        now = [np.array([table.knn(hash, epoch, seed) for hash in table.rows]) for seed in SEEDS]
        same, other = ([float(spearmanr(now[s], ends[s ^ cross]).statistic) for s in SEEDS] for cross in (0, 1))
        result.append({"epoch": epoch, "same_seed": float(np.mean(same)), "other_seed": float(np.mean(other))})
    return result


def fronts(table: Table) -> dict:
    """Networks on the front of each seed, and on both."""
    result = [set(front(whole(table, seed))) for seed in SEEDS]
    return {"networks": [len(f) for f in result], "in_common": len(result[0] & result[1])}


def front_rows(points: np.ndarray) -> np.ndarray:
    """The front of (−accuracy, cost), as nas.pareto.front, for thousands of studies.  N,2 → indices"""
    order = np.lexsort((points[:, 0], points[:, 1]))
    best = np.minimum.accumulate(points[order, 0])
    return order[np.r_[True, best[1:] < best[:-1]]]


def volumes(table: Table) -> dict:
    """What decides the hypervolume: the share of the cheapest network alone; and, over studies of 64 networks drawn at random,
    how much of its variance follows from the cheapest that was drawn (R² of a linear fit in log multiply-adds).
    """
    result = {}
    for name, reference in references(table).items():
        points = [whole(table, seed) for seed in SEEDS]
        full = [hypervolume(p, reference) for p in points]
        cheapest = [hypervolume(p[[p[:, 1].argmin()]], reference) / f for p, f in zip(points, full, strict=True)]
        random, values, least = np.random.RandomState(0), [], []
        for draw in range(DRAWS):
            drawn = points[draw % len(SEEDS)][random.permutation(len(points[0]))[: STUDIES[-1]]]
            values.append(hypervolume(drawn[front_rows(drawn)], reference) / full[draw % len(SEEDS)])
            least.append(drawn[:, 1].min())
        result[name] = {
            "cheapest_alone": cheapest, "mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)),
            "explained_by_cheapest_drawn": correlation(np.array(values), np.array(least)) ** 2,
        }
    return result


def optimism(table: Table) -> dict:
    """The best of a study of n networks, trained to the end with one seed: its figure less that of the other seed; and the
    same, as a mean over the study's front.
    """
    ends, result = final(table), {}
    macs = np.log10([row["macs"] for row in table.rows.values()])
    for count in STUDIES:
        random, best, on_fronts = np.random.RandomState(0), [], []
        for draw in range(DRAWS):
            one, other = ends[draw % 2], ends[1 - draw % 2]
            drawn = random.permutation(len(one))[:count]
            winner = drawn[one[drawn].argmax()]
            best.append(one[winner] - other[winner])
            on_front = drawn[front_rows(np.stack([-one[drawn], macs[drawn]], 1))]
            on_fronts.append(np.mean(one[on_front] - other[on_front]))
        result[str(count)] = {
            "best": float(np.mean(best)), "best_interval": interval(np.array(best)), "front": float(np.mean(on_fronts)),
        }
    return result


def promises(table: Table) -> dict:
    """What nas/posterior.py expects of a study's winner, less the other seed's figure; and that figure, of the winner by what
    was measured and by what is expected. Only networks that were trained to the end can win.
    """
    rows, described, curves = _table(table)
    result = {}
    for name, count, rungs in REPLAYED:
        random, found = np.random.RandomState(0), []
        for draw in track(range(REPLAYS), name):
            drawn, seed = random.permutation(len(rows))[:count], draw % 2
            found.append(_winners(described[drawn], curves[drawn, seed], curves[drawn, 1 - seed, -1], rungs))
        measured, own, expected_optimism, other = np.array(found).T
        result[name] = {
            "networks": count, "rungs": list(rungs), "replays": REPLAYS, "measured": float(measured.mean()),
            "expected": float(expected_optimism.mean()), "expected_interval": _of_mean(expected_optimism),
            "gain": float((other - own).mean()), "gain_interval": _of_mean(other - own),
        }
    return result


def _table(table: Table) -> tuple[list[dict], np.ndarray, np.ndarray]:
    """→ its rows N, their descriptors N,D and accuracies N,seeds,epochs"""
    space, rows = optuna.create_study().ask(), list(table.rows.values())
    tabular(space, 1, SIZE)
    sampled = [SampledParams({name: row[name] for name in space.distributions}, space.distributions) for row in rows]
    return rows, descriptors(sampled, rows), np.array([row["knn"] for row in rows])


def _halved(
    described: np.ndarray, curves: np.ndarray, rungs: tuple[int, ...], by_expectation: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A study by synchronous halving, promoted by what was measured or expected.  → who reached the last rung; expectations"""
    going, figures = np.arange(len(curves)), []
    for rung, epochs in enumerate(rungs):
        figures += [(i, 0, rung, curves[i, epochs - 1]) for i in going]
        if by_expectation or rung == len(rungs) - 1:
            mean = expected(Figures(described, *(np.array(column) for column in zip(*figures, strict=True)))).mean
        if rung < len(rungs) - 1:
            score = mean if by_expectation else curves[:, epochs - 1]
            going = going[np.argsort(-score[going])[: len(going) // 3]]
    return going, mean


def _winners(described: np.ndarray, curves: np.ndarray, fresh: np.ndarray, rungs: tuple[int, ...]) -> tuple[float, ...]:
    """Optimism of the measured winner and its fresh figure, the same of the expected one."""
    going, mean = _halved(described, curves, rungs)
    best, likely = (going[values[going].argmax()] for values in (curves[:, -1], mean))
    return curves[best, -1] - fresh[best], fresh[best], mean[likely] - fresh[likely], fresh[likely]


def promotions(table: Table) -> dict:
    """Studies by halving whose trials are promoted by what is expected, less the same promoted by what was measured: figures of
    the other seed, of the winner by expectation and as a mean over all that reached the last rung.
    """
    rows, described, curves = _table(table)
    result = {}
    for name, count, rungs in REPLAYED[2:]:
        random, gains = np.random.RandomState(1), []
        for draw in track(range(PROMOTED), f"promotion: {name}"):
            drawn, seed = random.permutation(len(rows))[:count], draw % 2
            study = described[drawn], curves[drawn, seed], curves[drawn, 1 - seed, -1], rungs
            gains.append(np.subtract(_promoted(*study, by_expectation=True), _promoted(*study, by_expectation=False)))
        winner, last = np.array(gains).T
        result[name] = {"replays": PROMOTED, "winner": float(winner.mean()), "winner_interval": _of_mean(winner),
                        "last_rung": float(last.mean()), "last_rung_interval": _of_mean(last)}
    return result


def _promoted(
    described: np.ndarray, curves: np.ndarray, fresh: np.ndarray, rungs: tuple[int, ...], by_expectation: bool
) -> tuple[float, float]:
    """Fresh figures of the winner by expectation, and of all at the last rung, their mean."""
    going, mean = _halved(described, curves, rungs, by_expectation)
    return fresh[going[mean[going].argmax()]], fresh[going].mean()


def _of_mean(values: np.ndarray) -> list[float]:
    """The 95 % interval of a mean over replays; they draw from one table, so it holds for this table."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - half), float(values.mean() + half)]


# ------------------------------------------------------------------------------------------------------------ the supernet


def supernet(table: Table) -> dict:
    """Seeds of the truth within and over both families, what the supernets' seeds say of each other, and of the truth."""
    kept = json.loads(SUPERNET.read_text())
    hashes, half = kept["hashes"], kept["parts"] // 2
    one, other = (np.array([table.knn(hash, table.epochs, seed) for hash in hashes]) for seed in SEEDS)
    alone = (one + other) / 2
    runs = np.array([run["recalibrated"] for run in kept["supernet"]])  # seeds, parts
    macs = np.array([table.rows[hash]["macs"] for hash in hashes])
    result = {}
    for name, own in (("all", slice(None)), ("relu", slice(half)), ("silu", slice(half, None))):
        result[name] = agreement(one[own], other[own]) | {
            "supernet_seeds": [float(spearmanr(run[own], alone[own]).statistic) for run in runs],
            "supernet_mean": float(spearmanr(runs.mean(0)[own], alone[own]).statistic),
            "macs": float(spearmanr(macs[own], alone[own]).statistic),
            "seed_with_seed": [float(spearmanr(runs[a][own], runs[b][own]).statistic) for a, b in ((0, 1), (0, 2), (1, 2))],
            "supernet_accuracy": float(runs[:, own].mean()), "alone_accuracy": float(alone[own].mean()),
        }
    within = np.concatenate([rankdata(runs.mean(0)[own]) for own in (slice(half), slice(half, None))])
    ranked = np.concatenate([rankdata(alone[own]) for own in (slice(half), slice(half, None))])
    return result | {
        "ranked_within_families": correlation(within, ranked), "parts_better_than_alone": int((runs.mean(0) > alone).sum()),
        "gain": float((runs.mean(0) - alone).mean()),
    }


def figures() -> dict:
    """All of them, to three decimals."""
    table = Table(KEPT)
    noise = truth(table)
    return rounded({
        "table": noise, "proxies": proxies(table, noise["ceiling"]), "rungs": rungs(table), "fronts": fronts(table),
        "hypervolume": volumes(table), "optimism": optimism(table), "supernet": supernet(table),
    })


def rounded(result):
    if isinstance(result, dict):
        return {name: rounded(value) for name, value in result.items()}
    if isinstance(result, list):
        return [rounded(value) for value in result]
    return round(result, 3)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the JSON of figures; experiments/tabular/noise.json, or promises.json")
    parser.add_argument("--promises", action="store_true", help="replay studies with nas/posterior.py instead; five minutes")
    options = parser.parse_args(argv)
    out = options.out or (PROMISES if options.promises else OUT)
    table = Table(KEPT)
    found = rounded(promises(table) | {"promotion": promotions(table)}) if options.promises else figures()
    checkpoint.write(out, json.dumps(provenance_of([0], ("numpy", "scipy", "optuna")) | found, indent=1) + "\n")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
