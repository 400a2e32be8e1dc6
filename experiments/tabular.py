"""A tabular benchmark: every architecture of a small space, pretrained on real images and judged after every epoch.

    uv run python -m experiments.tabular --worker 0 --workers 2      # and --worker 1 beside it; resumable
    uv run python -m experiments.tabular --assemble

`nas.space.tabular`'s 256 architectures × 2 seeds: SimCLR on 3,000 Fashion-MNIST images at 14 px for 9 epochs; kNN (k = 20) on
2,500 validation images after each. The cells lie in runs/tabular, the table in experiments/tabular/fashion_mnist.json:
samplers, schedulers and proxies are judged on it in seconds.
"""
import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna
import torch
from rich.progress import track
from torch import nn

from core import checkpoint, cli, loop, training
from core.distributed import session
from core.machine import code, hardware, versions
from core.method import Method
from core.run import Run
from linear_eval.features import collect, evenly, of_encoder
from linear_eval.knn import knn_accuracy
from nas.space import Candidate, sample, tabular
from ssl.pretrain import TOOL
from vision import cost, datasets, encoders, loaders
from vision.augment import Augmentation
from vision.splits import Dataset

KEPT = Path(__file__).resolve().parent / "tabular" / "fashion_mnist.json"
CELLS = Path("runs") / "tabular"
SIZE, EPOCHS, SEEDS, TRAIN, VALIDATION = 14, 9, (0, 1), 3_000, 2_500
WORDS = ("method=simclr", "data=fashion_mnist", "batch_size=125", f"epochs={EPOCHS}", "method.hidden=256", "method.dim=64",
         "optim.lr=1.0")


def choices() -> list[tuple[dict, Candidate]]:
    """Every point of the space, in one order."""
    space = optuna.create_study().ask()
    tabular(space, 1, SIZE)
    values = {
        name: d.choices if hasattr(d, "choices") else range(d.low, d.high + 1) for name, d in space.distributions.items()
    }
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    return [(p, sample(optuna.trial.FixedTrial(p), tabular, 1, SIZE, [], {})) for p in points]


def curve(choice: Candidate, seed: int, settings, data: Dataset, train, validation) -> list[float]:
    """kNN accuracy on validation after each epoch."""
    torch.manual_seed(seed)
    encoder, found = encoders.build(choice.spec).train(), []

    def observe(step: int) -> dict:
        found.append(judged(encoder, data, train, validation))
        encoder.train()
        return {}

    pretrain(training.build_method(settings, encoder), seed, settings, data, train, observe)
    return [round(accuracy, 2) for accuracy in found]


def judged(encoder: nn.Module, data: Dataset, train, validation) -> float:
    """kNN accuracy in per cent."""
    cpu = torch.device("cpu")
    source = of_encoder("encoder", encoder, torch.tensor(data.mean), torch.tensor(data.std), cpu, maps=False)
    bank, queries = (collect(source, split, cpu) for split in (train, validation))
    return knn_accuracy(*bank.tensors, *queries.tensors, len(data.classes))


def pretrain(method: Method, seed: int, settings, data: Dataset, train, observe=lambda step: {}) -> None:
    """Train on these images alone; observe: called after each epoch."""
    with session("cpu") as world, tempfile.TemporaryDirectory() as folder:
        recipe = Augmentation(SIZE, data.mean, data.std, **cli.plain(settings.augment))
        deal = loaders.BatchSampler(len(train), settings.batch_size, seed, world)
        method.prepare(deal.images, deal.batch_size)
        evals = frozenset(deal.steps_an_epoch * (epoch + 1) for epoch in range(int(settings.epochs)))
        optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, None, evals=evals, seed=seed)
        run = Run(Path(folder) / "run", {"seed": seed})
        run.begin()
        batches = loaders.loader(train, recipe, deal, 1, 0).batches(0, config.steps)
        loop.train(method, batches, optimizer, config, run, world.device, observe)


def splits(data: Dataset) -> tuple:
    """The images that everything here is trained on, and judged on."""
    return data.train.select(evenly(len(data.train), TRAIN)), data.validation.select(evenly(len(data.validation), VALIDATION))


def cells(worker: int, workers: int) -> None:
    """This worker's share of what is not done yet."""
    settings, data = cli.compose(TOOL, list(WORDS)), datasets.load("fashion_mnist", seed=0)
    train, validation = splits(data)
    jobs = [(choice, seed) for seed in SEEDS for _, choice in choices()][worker::workers]
    for choice, seed in track(jobs, "architectures × seeds", console=None, disable=not sys.stderr.isatty()):
        path = CELLS / f"{choice.hash}-{seed}.json"
        if path.exists():
            continue
        start = time.process_time()
        cell = {"knn": curve(choice, seed, settings, data, train, validation), "code": code()}
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, json.dumps(cell | {"cpu_seconds": round(time.process_time() - start, 1)}))


def assemble() -> None:
    rows, seconds, codes = [], 0.0, set()
    for point, choice in choices():
        found = [json.loads((CELLS / f"{choice.hash}-{seed}.json").read_text()) for seed in SEEDS]
        encoder = encoders.build(choice.spec)
        rows.append({
            **point, "hash": choice.hash, "parameters": round(cost.parameters(encoder), 6),
            "macs": round(cost.macs(encoder), 6), "knn": [cell["knn"] for cell in found],
        })
        seconds += sum(cell["cpu_seconds"] for cell in found)
        codes |= {cell["code"] for cell in found}
    noise = statistics.mean(abs(a[-1] - b[-1]) / 2**0.5 for a, b in (row["knn"] for row in rows))
    certificate = {
        "what": __doc__.splitlines()[0], "command": "python -m experiments.tabular", "words": list(WORDS), "pixels": SIZE,
        "images": {"train": TRAIN, "validation": VALIDATION}, "seeds": list(SEEDS), "epochs": EPOCHS,
        "cpu_hours": round(seconds / 3600, 2), "mean_std_of_seeds": round(noise, 2), "hardware": hardware(),
        "versions": versions(), "code": sorted(codes),
    }
    lines = ",\n".join(" " + json.dumps(row) for row in rows)
    KEPT.parent.mkdir(exist_ok=True)
    checkpoint.write(KEPT, f'{{"certificate": {json.dumps(certificate, indent=1)},\n"rows": [\n{lines}\n]}}\n')
    print(f"{len(rows)} architectures → {KEPT}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--assemble", action="store_true", help="write the table of what is done")
    given = parser.parse_args()
    if given.assemble:
        assemble()
    else:
        cells(given.worker, given.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
