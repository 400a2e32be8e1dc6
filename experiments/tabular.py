"""Makes the tabular benchmark: every architecture of a small space, pretrained on real images and evaluated after every epoch.

    uv run python -m experiments.tabular --parallel 2     # resumes where it was stopped

`nas.space.tabular`'s 256 architectures × 2 seeds: SimCLR on 3,000 Fashion-MNIST images at 14 px for 9 epochs; kNN (k = 20) on
2,500 validation images after each. Written to experiments/tabular/fashion_mnist.json, on which samplers, schedulers and proxies
are compared in seconds. A tool of its own because no command pretrains on a subset of images at another size; its parts are
cells (experiments/cells.py), which the same workers run as a table's.
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
from core.machine import provenance_of
from core.method import Method
from core.processes import session
from core.run import Run
from experiments.cells import Cell, State
from experiments.launchers import LocalLauncher
from experiments.provenance import of_cells
from experiments.reproduce import report
from experiments.runner import run_cells
from experiments.tabular_clock import SECONDS
from linear_eval.features import collect, evenly, of_encoder
from linear_eval.knn import knn_accuracy
from nas.space import Candidate, sample, tabular
from ssl.pretrain import TOOL
from vision import cost, datasets, encoders, loaders
from vision.augment import Augmentation
from vision.splits import Dataset

KEPT = Path(__file__).resolve().parent / "tabular" / "fashion_mnist.json"
TIMED = slice(3, 198, 13)  # of the space's points: 15 networks whose epoch is timed
PARTS = 64  # cells, of eight curves each
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

    def evaluate(step: int) -> dict:
        found.append(evaluated(encoder, data, train, validation))
        encoder.train()
        return {}

    pretrain(training.build_method(settings, encoder), seed, settings, data, train, evaluate)
    return [round(accuracy, 2) for accuracy in found]


def evaluated(encoder: nn.Module, data: Dataset, train, validation) -> float:
    """kNN accuracy in per cent."""
    cpu = torch.device("cpu")
    source = of_encoder("encoder", encoder, torch.tensor(data.mean), torch.tensor(data.std), cpu, maps=False)
    bank, queries = (collect(source, split, cpu) for split in (train, validation))
    return knn_accuracy(*bank.tensors, *queries.tensors, len(data.classes))


def pretrain(method: Method, seed: int, settings, data: Dataset, train, evaluate=lambda step: {}) -> None:
    """Train on these images alone; evaluate: called after each epoch."""
    with session("cpu") as world, tempfile.TemporaryDirectory() as folder:
        recipe = Augmentation(SIZE, data.mean, data.std, **cli.plain(settings.augment))
        deal = loaders.BatchSampler(len(train), settings.batch_size, seed, world)
        method.prepare(deal.images, deal.batch_size)
        evals = frozenset(deal.steps_an_epoch * (epoch + 1) for epoch in range(int(settings.epochs)))
        optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, None, evals=evals, seed=seed)
        run = Run(Path(folder) / "run", {"seed": seed})
        run.begin()
        batches = loaders.loader(train, recipe, deal, 1, 0).batches(0, config.steps)
        loop.train(method, batches, optimizer, config, run, world.device, evaluate)


def timings() -> dict[str, float]:
    """Processor seconds of an epoch of some networks, by hash."""
    words = [word for word in WORDS if not word.startswith("epochs=")]
    settings, data = cli.compose(TOOL, [*words, "epochs=1"]), datasets.load("fashion_mnist", seed=0)
    train, validation = splits(data)
    chosen = [candidate for _, candidate in choices()[TIMED]]
    curve(chosen[0], 0, settings, data, train, validation)  # warms up
    found = {}
    for candidate in track(chosen, "timings"):
        start = time.process_time()
        curve(candidate, 0, settings, data, train, validation)
        found[candidate.hash] = round(time.process_time() - start, 3)
    return found


def splits(data: Dataset) -> tuple:
    """The images that everything here is trained on, and evaluated on."""
    return data.train.select(evenly(len(data.train), TRAIN)), data.validation.select(evenly(len(data.validation), VALIDATION))


def jobs() -> list[tuple[Candidate, int]]:
    return [(choice, seed) for seed in SEEDS for _, choice in choices()]


def curves(part: int) -> dict[str, dict]:
    """Of one cell: "<hash>-<seed>" → the curve and its processor time."""
    settings, data = cli.compose(TOOL, list(WORDS)), datasets.load("fashion_mnist", seed=0)
    train, validation = splits(data)
    results = {}
    for choice, seed in jobs()[part::PARTS]:
        start = time.process_time()
        knn = curve(choice, seed, settings, data, train, validation)
        results[f"{choice.hash}-{seed}"] = {"knn": knn, "cpu_seconds": round(time.process_time() - start, 1)}
    return results


def cells() -> list[Cell]:
    files = (("curves", "{out}/curves.json"),)
    return [Cell(f"tabular part={i}", "experiments.tabular", (f"--part={i}", "--out={out}/curves.json"), files)
            for i in range(PARTS)]


def assemble(parts: list[Cell]) -> None:
    """Write the kept file from the cells' files."""
    measured = {name: one for cell in parts for name, one in json.loads(cell.file("curves").read_text()).items()}
    rows = []
    for point, choice in choices():
        encoder = encoders.build(choice.spec)
        rows.append({
            **point, "hash": choice.hash, "parameters": round(cost.parameters(encoder), 6),
            "macs": round(cost.macs(encoder), 6), "knn": [measured[f"{choice.hash}-{seed}"]["knn"] for seed in SEEDS],
        })
    noise = statistics.mean(abs(a[-1] - b[-1]) / 2**0.5 for a, b in (row["knn"] for row in rows))
    seconds = sum(one["cpu_seconds"] for one in measured.values())
    records = [cell.record for cell in parts if cell.record]
    provenance = {
        "what": __doc__.splitlines()[0], "words": list(WORDS), "pixels": SIZE, "seeds": list(SEEDS), "epochs": EPOCHS,
        "images": {"train": TRAIN, "validation": VALIDATION}, "cpu_hours": round(seconds / 3600, 2),
        "mean_std_of_seeds": round(noise, 2),
        **of_cells("python -m experiments.tabular", records).to_json(),
    }
    lines = ",\n".join(" " + json.dumps(row) for row in rows)
    KEPT.parent.mkdir(exist_ok=True)
    checkpoint.write(KEPT, f'{{"certificate": {json.dumps(provenance, indent=1)},\n"rows": [\n{lines}\n]}}\n')
    print(f"{len(rows)} architectures → {KEPT}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parallel", type=int, default=1, help="cells at once")
    parser.add_argument("--part", type=int, help="run one cell in this process")
    parser.add_argument("--out", type=Path, help="its JSON file")
    parser.add_argument("--timings", action="store_true", help="measure the seconds of an epoch of some networks instead")
    options = parser.parse_args(argv)
    if options.timings:
        checkpoint.write(SECONDS, json.dumps(provenance_of([0], ("torch", "timm")) | {"seconds": timings()}, indent=1) + "\n")
        return 0
    if options.part is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(options.out, json.dumps(curves(options.part)))
        return 0
    parts = cells()
    states = run_cells(parts, LocalLauncher(options.parallel, []), report)
    if set(states.values()) != {State.DONE}:
        print("some parts are not done: the same command resumes", file=sys.stderr)
        return 1
    assemble(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
