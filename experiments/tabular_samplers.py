"""Compares samplers at equal simulated cost on the tabular benchmark: how soon has each found the front?

    uv run python -m experiments.tabular_samplers --seeds 100          # resumes; several processes share the seeds: --part 0/2

A study runs until it has spent BUDGET simulated seconds (experiments/tabular_clock.py), one training after the other. It sees
one seed's accuracy, and is measured by the mean over seeds. Hypervolume: of accuracy and log₁₀ multiply-adds, up to a reference
point 10 % beyond the worst of the front of all networks, as a share of what all networks have.

    seconds   until 95 % are found
    found     of all that a study has trained to the end
    declared  of those on its own front, by its own seed
    regret    what the network with the best own figure lacks of the best there is, in points of accuracy

Intervals are of 95 %, from 2,000 bootstrap samples of the seeds that both samplers have. Written to
experiments/tabular/sampler_cost.json.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
from filelock import FileLock
from optuna.storages import InMemoryStorage
from rich.progress import track

from core import checkpoint
from core.machine import provenance_of
from experiments.tabular_clock import BUDGET, SECONDS, Clock, Result, Scores, rates
from linear_eval.bootstrap import interval
from nas.halving import Halving
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.settings import SAMPLERS
from nas.store import TrialStore
from nas.tabular import Table

TABLE, OUT = SECONDS.with_name("fashion_mnist.json"), SECONDS.with_name("sampler_cost.json")
OBJECTIVES = {"knn": "maximize", "macs": "minimize"}
RUNGS = {"full": (9.0,), "halved": (1.0, 3.0, 9.0)}
STUDIES = (*(f"{sampler}, {rungs}" for rungs in RUNGS for sampler in SAMPLERS), "optuna_nsga2, full")
DRAWS = 2_000  # bootstrap samples


# ------------------------------------------------------------------------------------------------------------------ studies


def replay(clock: Clock, sampler: str, rungs: tuple[float, ...], seed: int) -> None:
    """A search of ours."""
    store = TrialStore("replay", InMemoryStorage(), OBJECTIVES, {})
    config = SearchConfig(len(clock.table.rows), Halving(rungs, 3), OBJECTIVES, {}, sampler, seed, 3600.0)
    worker = Worker(store, config, clock)
    while clock.now < BUDGET and (id := worker.next()) is not None:
        worker.work(id)


def optuna_nsga2(clock: Clock, seed: int) -> None:
    """Optuna's own NSGA-II, as it comes. A network that is proposed again is looked up, and costs nothing."""
    study, known = optuna.create_study(directions=[*OBJECTIVES.values()], sampler=optuna.samplers.NSGAIISampler(seed=seed)), {}
    for _ in range(100 * len(clock.table.rows)):
        if clock.now >= BUDGET:
            break
        trial = study.ask()
        hash = clock.sample(trial).hash
        if hash not in known:
            known[hash] = clock.train(hash, 0, clock.table.epochs)["knn"]
        study.tell(trial, [known[hash], np.log(clock.table.rows[hash]["macs"])])


def run(table: Table, scores: Scores, per_epoch: dict[str, float], name: str, seed: int) -> Result:
    sampler, rungs = name.split(", ")
    clock = Clock(table, seed % table.seeds, per_epoch)
    if sampler == "optuna_nsga2":
        optuna_nsga2(clock, seed)
    else:
        replay(clock, sampler, RUNGS[rungs], seed)
    return scores.result(clock.ends, clock.seed)


# ------------------------------------------------------------------------------------------------------- what is kept of them


def read(kept: Path) -> dict:
    return json.loads(kept.read_text()) if kept.exists() else {"studies": {}}


def put(kept: Path, name: str, seed: int, result: Result) -> None:
    """Add one study to the kept file, which other processes may write too."""
    with FileLock(kept.with_suffix(".lock")):
        document = read(kept)
        document["studies"].setdefault(name, {})[str(seed)] = asdict(result)
        checkpoint.write(kept, json.dumps(document, indent=1) + "\n")


def times(studies: dict[str, dict], seeds: Sequence[str]) -> np.ndarray:
    """Seconds until 95 % are found; the budget, a lower bound, where they were not."""
    return np.array([BUDGET if studies[s]["seconds"] is None else studies[s]["seconds"] for s in seeds])


def summary(studies: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """Of each sampler; against `model` with the same rungs, how many times its mean seconds, and how much more it finds."""
    result, samples = {}, np.random.RandomState(0)
    for name, own in studies.items():
        seeds = sorted(own, key=int)
        seconds, row = times(own, seeds), {"seeds": len(seeds)}
        drawn = samples.randint(0, len(seeds), (DRAWS, len(seeds)))
        row |= {"seconds": float(seconds.mean()), "seconds_interval": interval(seconds[drawn].mean(1)),
                "reached": float(np.mean([own[s]["seconds"] is not None for s in seeds]))}
        for measure in ("found", "declared", "regret"):
            values = np.array([own[s][measure] for s in seeds])
            row |= {measure: float(values.mean()), f"{measure}_interval": interval(values[drawn].mean(1))}
        model = studies.get(f"model, {name.split(', ')[1]}", {})
        if (both := [s for s in seeds if s in model]) and not name.startswith("model"):
            drawn = samples.randint(0, len(both), (DRAWS, len(both)))
            theirs, ours = times(own, both), times(model, both)
            gain = np.array([model[s]["found"] - own[s]["found"] for s in both])
            row["against_model"] = {
                "seeds": len(both), "times": float(theirs.mean() / ours.mean()),
                "times_interval": interval(theirs[drawn].mean(1) / ours[drawn].mean(1)),
                "found": float(gain.mean()), "found_interval": interval(gain[drawn].mean(1)),
            }
        result[name] = row
    return result


def finish(kept: Path, ceiling: dict[str, float]) -> None:
    """Add what the studies amount to."""
    with FileLock(kept.with_suffix(".lock")):
        studies = {name: one for name in STUDIES if (one := read(kept)["studies"].get(name))}
        seeds = sorted({int(seed) for one in studies.values() for seed in one})
        head = provenance_of(seeds, ("numpy", "scipy", "optuna"))
        document = head | {"budget": BUDGET, "ceiling": ceiling, "summary": summary(studies), "studies": studies}
        checkpoint.write(kept, json.dumps(document, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--part", default="0/1", help="i/n: the i-th of n processes, each with its own seeds")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES)
    parser.add_argument("--kept", type=Path, default=OUT, help="the JSON of kept figures")
    given = parser.parse_args(argv)
    table, part, parts = Table(TABLE), *map(int, given.part.split("/"))
    scores, per_epoch = Scores(table), rates(table)
    for name in given.studies:
        there = read(given.kept)["studies"].get(name, {})
        for seed in track([s for s in range(part, given.seeds, parts) if str(s) not in there], name):
            put(given.kept, name, seed, run(table, scores, per_epoch, name, seed))
    finish(given.kept, scores.ceiling())
    print(given.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
