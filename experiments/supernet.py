"""Measures whether a supernet ranks its parts as training each of them alone does.

    uv run python -m experiments.supernet            # --seeds 0 1 2 --epochs 27

A tool of its own because no command trains a supernet on the benchmark's images. The parts: 48 residual networks of the
tabular benchmark, whose accuracy alone is in experiments/tabular/fashion_mnist.json (two seeds, nine epochs each): basic
blocks without attention, of width 8, 16 or 24 (timm makes 16 of 12), kernel and depths vary. Two supernets hold them, one a
ReLU and one a SiLU family. Each has an offset of its own, so that figures over both families, which the JSON has too, are no
measure of ranking. The truth is two seeds a part, which agree little: what that bounds is in experiments/search_noise.py. The
supernets see the same 3,000 images at 14 px and are evaluated by kNN on the same validation images, with BatchNorm statistics
of each part's own, and without. Kept in experiments/supernet/fashion_mnist.json.
"""
import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from optuna.trial import BaseTrial, FixedTrial
from rich.progress import track

from core import checkpoint, cli, training
from core.machine import provenance_of
from experiments import judge, tabular
from linear_eval.features import images_of
from nas import space
from nas.space import Candidate
from nas.supernet import largest_spec, recompute_batchnorm, sandwiched
from nas.tabular import Table
from ssl.pretrain import TOOL
from vision import datasets, elastic, encoders
from vision.splits import Dataset

KEPT = Path(__file__).resolve().parent / "supernet" / "fashion_mnist.json"
FAMILIES = [{"block": "basic", "attention": "none", "activation": activation} for activation in ("relu", "silu")]
WIDTHS = (8, 16, 24)


def members(family: dict) -> list[Candidate]:
    return [choice for point, choice in tabular.choices() if family.items() <= point.items() and point["width"] in WIDTHS]


def nested(trial: BaseTrial, channels: int, size: int, family: dict) -> encoders.Spec:
    """The tabular space of one family."""
    asked = {name: trial.suggest_int(name, 1, 2) for name in ("depth0", "depth1")}
    asked |= {name: trial.suggest_categorical(name, of) for name, of in (("width", WIDTHS), ("kernel", (3, 5)))}
    return space.tabular(FixedTrial(asked | family), channels, size)


def accuracies(family: dict, seed: int, epochs: int, subnets: int, data: Dataset) -> dict[str, list[float]]:
    """Train a supernet; kNN of every part with the statistics of its own, and with the leading ones of the whole."""
    settings, (train, validation) = cli.compose(TOOL, [*tabular.WORDS, f"epochs={epochs}"]), tabular.splits(data)
    spaced = partial(nested, family=family)
    torch.manual_seed(seed)
    encoder = encoders.build(largest_spec(spaced, 1, tabular.SIZE)).train()
    method = sandwiched(training.build_method(settings, encoder), spaced, subnets, seed)
    tabular.pretrain(method, seed, settings, data, train)
    images, found = images_of(train, torch.arange(2000), tabular.SIZE, 1), {"recalibrated": [], "as cut": []}
    for choice in members(family):
        part = elastic.extract(encoder, choice.spec)
        found["as cut"].append(round(tabular.judged(part, data, train, validation), 2))
        recompute_batchnorm(part, images, torch.tensor(data.mean), torch.tensor(data.std))
        found["recalibrated"].append(round(tabular.judged(part, data, train, validation), 2))
    return found


def rho(found, truth: np.ndarray) -> list[float]:
    return [round(v, 3) for v in judge.rho(found, truth)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the supernet")
    parser.add_argument("--epochs", type=int, default=27, help="of the supernet")
    parser.add_argument("--subnets", type=int, default=2, help="drawn parts a step")
    given = parser.parse_args()
    table, data, start = Table(tabular.KEPT), datasets.load("fashion_mnist", seed=0), time.process_time()
    parts = [choice for family in FAMILIES for choice in members(family)]
    found = []
    for seed in track(given.seeds, "supernets"):
        both = [accuracies(family, seed, given.epochs, given.subnets, data) for family in FAMILIES]
        found.append({kind: [v for one in both for v in one[kind]] for kind in both[0]})
    truth = np.array([table.knn(choice.hash, table.epochs) for choice in parts])
    rows = [table.rows[choice.hash] for choice in parts]
    one, other = (np.array([table.knn(c.hash, table.epochs, seed) for c in parts]) for seed in tabular.SEEDS)
    half = len(parts) // 2
    correlation = {
        **{kind: [rho(f[kind], truth) for f in found] for kind in ("recalibrated", "as cut")},
        **{f"recalibrated, {family['activation']} only": [rho(f["recalibrated"][own], truth[own]) for f in found]
           for family, own in zip(FAMILIES, (slice(half), slice(half, None)), strict=True)},
        "mean of seeds, recalibrated": rho(np.mean([f["recalibrated"] for f in found], axis=0), truth),
        "one seed alone with another": rho(one, other), "macs": rho([r["macs"] for r in rows], truth),
        "parameters": rho([r["parameters"] for r in rows], truth),
    }
    kept = provenance_of(given.seeds) | {
        "parts": len(parts), "spearman": correlation, "alone": [round(v, 2) for v in truth.tolist()], "supernet": found,
        "hashes": [choice.hash for choice in parts], "cpu_minutes": round((time.process_time() - start) / 60, 1),
    }
    KEPT.parent.mkdir(exist_ok=True)
    checkpoint.write(KEPT, json.dumps(kept, indent=1) + "\n")
    print(json.dumps(correlation, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
