"""Does a supernet rank its parts as training each of them alone does?

    uv run python -m experiments.supernet --worker 0 --workers 2     # and --worker 1 beside it: each part alone; resumable
    uv run python -m experiments.supernet                            # what is left of that, then the supernets

The parts: 40 encoders drawn from nas's space `elastic`, at 14 px. Alone: SimCLR as in the tabular benchmark (3,000
Fashion-MNIST images, 9 epochs, kNN on 2,500 validation images), three seeds. Together: three supernets of 27 epochs on the
same images, every part judged on the same validation images, with BatchNorm statistics of its own and with those it was cut
with. Kept in experiments/supernet/fashion_mnist.json.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import torch
from rich.progress import track

from core import checkpoint, command, config
from core.machine import certificate
from experiments import judge, tabular
from linear_eval.features import images_of
from nas.space import Choice, choose, elastic
from nas.supernet import recalibrate, sandwiched, whole
from ssl.pretrain import TOOL
from vision import cost, datasets, encoders
from vision.elastic import extract

KEPT = Path(__file__).resolve().parent / "supernet" / "fashion_mnist.json"
CELLS = Path("runs") / "supernet"
PARTS, SEEDS = 40, (0, 1, 2)


def parts() -> list[Choice]:
    """So many different ones, drawn evenly from the space."""
    study, found = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), {}
    while len(found) < PARTS:
        choice = choose(study.ask(), elastic, 1, tabular.SIZE, [], {})
        found[choice.hash] = choice
    return list(found.values())


def alone(choice: Choice) -> list[float]:
    """kNN at the end, a seed each."""
    return [json.loads((CELLS / f"{choice.hash}-{seed}.json").read_text())["knn"][-1] for seed in SEEDS]


def together(seed: int, epochs: int, subnets: int) -> dict[str, list[float]]:
    """Train a supernet; kNN of every part with the statistics of its own, and with the leading ones of the whole."""
    data = datasets.load("fashion_mnist", seed=0)
    words, (train, validation) = config.compose(TOOL, [*tabular.WORDS, f"epochs={epochs}"]), tabular.splits(data)
    torch.manual_seed(seed)
    encoder = encoders.build(whole(elastic, 1, tabular.SIZE)).train()
    method = sandwiched(command.build_method(words, encoder), elastic, subnets, seed)
    tabular.pretrain(method, seed, words, data, train)
    images, found = images_of(train, torch.arange(2000), tabular.SIZE, 1), {"recalibrated": [], "as cut": []}
    for choice in parts():
        part = extract(encoder, choice.spec)
        found["as cut"].append(round(tabular.judged(part, data, train, validation), 2))
        recalibrate(part, images, torch.tensor(data.mean), torch.tensor(data.std))
        found["recalibrated"].append(round(tabular.judged(part, data, train, validation), 2))
    return found


def rho(found, truth) -> list[float]:
    """Spearman's, with its 95 % interval."""
    return [round(v, 3) for v in judge.rho(found, np.asarray(truth))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="more than one: train parts alone, this worker's share")
    parser.add_argument("--epochs", type=int, default=27, help="of the supernets")
    parser.add_argument("--subnets", type=int, default=2, help="drawn parts a step")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    start, jobs = time.process_time(), [(choice, seed) for seed in SEEDS for choice in parts()]
    tabular.cells(jobs[given.worker :: given.workers], CELLS)
    if given.workers > 1:
        return 0
    supernets = [together(seed, given.epochs, given.subnets) for seed in track(SEEDS, "supernets")]
    truth = np.array([alone(choice) for choice in parts()])  # parts × seeds
    costs = [{"macs": cost.macs(e), "parameters": cost.parameters(e)} for e in (encoders.build(c.spec) for c in parts())]
    mean = truth.mean(1)
    correlation = {
        **{kind: [rho(found[kind], mean) for found in supernets] for kind in ("recalibrated", "as cut")},
        "mean of supernets, recalibrated": rho(np.mean([found["recalibrated"] for found in supernets], axis=0), mean),
        "one seed alone with the mean of the others": [rho(truth[:, s], np.delete(truth, s, 1).mean(1)) for s in SEEDS],
        **{name: rho([c[name] for c in costs], mean) for name in costs[0]},
    }
    kept = {
        **certificate(SEEDS), "parts": PARTS, "spearman": correlation, "alone": truth.round(2).tolist(), "supernets": supernets,
        "costs": costs, "specs": [choice.spec.json for choice in parts()],
        "cpu_minutes": round((time.process_time() - start) / 60, 1),
    }
    checkpoint.write(KEPT, json.dumps(kept, indent=1) + "\n")
    print(json.dumps(correlation, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
