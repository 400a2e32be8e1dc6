"""Do our tools give the published figures?  Fashion-MNIST, official split (60,000 and 10,000 images), published settings.

    uv run python -m experiments.published

Sources: the data set's paper (Xiao et al. 2017, arXiv 1708.07747, table 3) with the code of its benchmark (benchmark/runner.py
in github.com/zalandoresearch/fashion-mnist), and the table of submitted results in that repository's README. A cell that is
done is not run again unless its setting has changed. The support vector machines take the better part of an hour each on one
core. Kept in experiments/published/fashion_mnist.json and .md.

    uv run python -m experiments.published --hog

is how the HOG of the last cell was chosen, on images of train alone. Kept in experiments/published/hog.json.
"""
import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import faiss
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from core import checkpoint
from core.machine import code, hardware, versions
from linear_eval import kernel_svm
from linear_eval.baselines import stratified
from linear_eval.descriptors import hog
from vision.datasets import load

KEPT = Path(__file__).resolve().parent / "published" / "fashion_mnist.json"
PACKAGES = ("scikit-learn", "numpy", "scipy", "torch", "faiss-gpu", "faiss-cpu")
QUICK = 2_000, 500  # train and test images
CHECKED = 200  # queries on which faiss and scikit-learn must agree
BLOCK = 500  # images a call of hog
HOGS = ((4, 9, 2), (4, 6, 2), (4, 8, 2), (4, 12, 2), (4, 6, 3), (3, 6, 2), (5, 6, 2))  # cell, orientations, block


@dataclass(frozen=True)
class Split:
    """train, test: N,1,28,28 uint8 and their labels."""

    train: Tensor
    train_labels: np.ndarray
    test: Tensor
    test_labels: np.ndarray

    def images(self) -> list[int]:
        return [len(self.train), len(self.test)]

    def standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels as the runner scales them: each with mean 0 and deviation 1 over train.  → N,784 and M,784"""
        train, test = (images.flatten(1).numpy().astype(np.float64) for images in (self.train, self.test))
        scaler = StandardScaler().fit(train)
        return scaler.transform(train), scaler.transform(test)


def nearest(split: Split) -> np.ndarray:
    """Exact search by faiss, in a fraction of scikit-learn's time, and the vote of scikit-learn's weights="distance"."""
    train, test = split.standardised()
    index = faiss.IndexFlat(train.shape[1], faiss.METRIC_L1)
    index.add(train.astype(np.float32))
    distance, rows = index.search(test.astype(np.float32), 5)
    # An image that is in train too decides alone, as in scikit-learn: its weight would be infinite.
    weight = np.where((distance == 0).any(1, keepdims=True), distance == 0, 1 / distance.clip(1e-30))
    votes = np.zeros((len(test), split.train_labels.max() + 1))
    np.add.at(votes, (np.arange(len(test))[:, None], split.train_labels[rows]), weight)
    predicted = votes.argmax(1)
    peer = KNeighborsClassifier(5, p=1, weights="distance").fit(train, split.train_labels)
    if (differ := (peer.predict(test[:CHECKED]) != predicted[:CHECKED]).sum()):
        raise AssertionError(f"faiss and scikit-learn differ on {differ} of {CHECKED} queries")
    return predicted


def on_pixels(model) -> Callable[[Split], np.ndarray]:
    def predict(split: Split) -> np.ndarray:
        train, test = split.standardised()
        return model.fit(train, split.train_labels).predict(test)

    return predict


def hogs(images: Tensor, *setting: int) -> np.ndarray:
    return np.concatenate([hog(part, *setting) for part in images.split(BLOCK)])


def on_hog(model) -> Callable[[Split], np.ndarray]:
    def predict(split: Split) -> np.ndarray:
        train, test = (hogs(images) for images in (split.train, split.test))
        return model.fit(train, split.train_labels).predict(test)

    return predict


@dataclass(frozen=True)
class Claim:
    """A published figure, in %.  tolerance: how far, and why, a right reproduction may lie from it."""

    name: str
    published: float
    source: str
    setting: str
    tolerance: float
    reason: str
    differs: str  # from the published setting
    predict: Callable[[Split], np.ndarray]

    def judged(self, measured: float) -> dict:
        """All that is said of the claim but its name, the measured figure, and whether it is a reproduction."""
        said = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("name", "predict")}
        return said | {"measured": measured, "within": abs(measured - self.published) <= self.tolerance + 1e-9}


PAPER, PAGE = "arXiv 1708.07747, table 3", "README of github.com/zalandoresearch/fashion-mnist, submitted by subalde"
L1_LOGISTIC = LogisticRegression(C=1.0, l1_ratio=1.0, solver="liblinear", random_state=0)  # theirs: penalty="l1"
CLAIMS = (
    Claim(
        "kNN", 85.4, PAPER, "n_neighbors=5, p=1, weights=distance, standardised pixels",
        0.1, "0.05 is the rounding of the published figure; ties between distances move single images",
        "neighbours found by faiss (exact, float32). Why the paper's is lower is not known: p=1 on plain pixels gives 86.15, "
        "p=2 on standardised ones 85.35, which is the published figure", nearest,
    ),
    Claim(
        "random forest", 87.3, PAPER, "100 trees, entropy, max_depth=100, standardised pixels",
        0.4, "a forest is random: three deviations over seeds (0.13, of five seeds with 6,000 training images)",
        "the source we hold names the figure alone; this is the largest forest of the runner's grid",
        on_pixels(RandomForestClassifier(100, criterion="entropy", max_depth=100, random_state=0, n_jobs=-1)),
    ),
    Claim(
        "logistic regression", 84.2, PAPER, "C=1, l1, one against the rest, standardised pixels",
        0.2, "liblinear stops before the optimum, elsewhere for another order of images (the runner shuffles); 20 images",
        "one-vs-rest by OneVsRestClassifier: scikit-learn has dropped multi_class", on_pixels(OneVsRestClassifier(L1_LOGISTIC)),
    ),
    Claim(
        "MLP", 87.1, PAPER, "one hidden layer of 100, relu, Adam, at most 200 epochs, standardised pixels",
        0.9, "weights and order are random: three deviations over seeds (0.29, of five seeds with 6,000 training images)",
        "the source we hold names the figure alone; this is of the runner's grid, with scikit-learn's defaults",
        on_pixels(MLPClassifier((100,), activation="relu", random_state=0)),
    ),
    Claim(
        "SVC", 89.7, PAPER, "C=10, rbf, gamma=1/784, standardised pixels",
        0.1, "0.05 is the rounding; the optimum is unique but for the stopping tolerance of 1e-3",
        "nothing: gamma=auto was scikit-learn's default then", on_pixels(SVC(C=10, gamma="auto", cache_size=2000)),
    ),
    Claim(
        "HOG + SVM", 92.6, PAGE, "HOG of linear_eval.descriptors, SVC, C=10, rbf, gamma=1/(D × variance)",
        0.5, "settings are not published: what another reasonable HOG changes",
        "HOG and SVM settings are ours; on images of train no other was clearly better (hog.json)",
        on_hog(SVC(C=10, cache_size=2000)),
    ),
)


def official(quick: bool) -> Split:
    data = load("fashion_mnist", validation=0)
    train, test = QUICK if quick else (len(data.train), len(data.test))
    assert quick or (train, test) == (60_000, 10_000)
    return Split(data.train.images[:train], data.train.labels[:train].numpy(),
                 data.test.images[:test], data.test.labels[:test].numpy())


def measure(claim: Claim, split: Split) -> dict:
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # liblinear's 100 iterations are the published setting
        predicted = claim.predict(split)
    measured = round(float((predicted == split.test_labels).mean() * 100), 2)
    cost = {"images": split.images(), "seconds": round(time.monotonic() - start, 1)}
    return claim.judged(measured) | cost | origin()


def choose_hog(path: Path) -> None:
    """Validation accuracy (5,000 images of train) of an SVM (C = 10) on 10,000 images of train, for each of HOGS."""
    data = load("fashion_mnist")
    rows = stratified(data.train.labels.numpy(), 10_000, seed=0)
    train, labels = data.train.images[rows], data.train.labels[rows].numpy()
    found = {}
    for setting in HOGS:
        machine, = kernel_svm.fit(hogs(train, *setting), labels, (10,))
        predicted = machine.decision_function(hogs(data.validation.images, *setting)).argmax(1)
        name = "cell {}, {} orientations, block {}".format(*setting)
        found[name] = round(float((predicted == data.validation.labels.numpy()).mean() * 100), 2)
        print(f"{name}: {found[name]}", flush=True)
    document = {"meaning": choose_hog.__doc__, "found": found, **origin()}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, json.dumps(document, indent=1) + "\n")


def origin() -> dict:
    command = " ".join(["python -m experiments.published", *sys.argv[1:]])
    return {"command": command, "code": code(), "hardware": hardware(), "versions": versions(PACKAGES)}


def table(cells: dict[str, dict]) -> str:
    """Markdown, in the order of CLAIMS."""
    lines = [
        "# Published figures on Fashion-MNIST, reproduced",
        "",
        "Test accuracy in %, official split, all 60,000 training images. `uv run python -m experiments.published`; hardware,",
        "versions and reasons of the tolerances are in the JSON beside this table.",
        "",
        "| | published | measured | tolerance | within | minutes | setting | differs |",
        "|---" * 8 + "|",
    ]
    for name, c in ordered(cells).items():
        figures = f"{c['published']:.1f} | {c['measured']:.2f} | {c['tolerance']} | {'yes' if c['within'] else '**no**'}"
        lines.append(f"| {name} | {figures} | {c['seconds'] / 60:.1f} | {c['setting']} | {c['differs']} |")
    sources = {c["source"]: [n for n, d in ordered(cells).items() if d["source"] == c["source"]] for c in cells.values()}
    return "\n".join([*lines, "", *(f"{', '.join(names)}: {source}." for source, names in sources.items())]) + "\n"


def ordered(cells: dict[str, dict]) -> dict[str, dict]:
    return {claim.name: cells[claim.name] for claim in CLAIMS if claim.name in cells}


def kept(path: Path, split: Split) -> dict[str, dict]:
    """The cells of a file that are of so many images and of today's settings, beside what CLAIMS says of them today."""
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    now = {claim.name: claim for claim in CLAIMS}
    same = {name: c for name, c in cells.items() if name in now and c["setting"] == now[name].setting}
    return {name: c | now[name].judged(c["measured"]) for name, c in same.items() if c["images"] == split.images()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(c.name for c in CLAIMS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="2,000 images: does it run? its figures mean nothing")
    parser.add_argument("--hog", action="store_true", help="choose the HOG on images of train, and end")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the JSON of kept figures")
    given = parser.parse_args()
    if unknown := sorted(set(given.only or ()) - {claim.name for claim in CLAIMS}):
        parser.error(f"--only {' '.join(unknown)}: there are {', '.join(claim.name for claim in CLAIMS)}")
    if given.quick and given.kept.resolve() == KEPT:
        parser.error("--quick figures mean nothing: keep them in another file with --kept")
    if given.hog:
        choose_hog(given.kept.with_name("hog.json"))
        return 0

    split = official(given.quick)
    for claim in CLAIMS:
        if claim.name in kept(given.kept, split) or (given.only and claim.name not in given.only):
            continue
        print(f"{claim.name}: {claim.setting} …", flush=True)
        done = measure(claim, split)
        cells = ordered(kept(given.kept, split) | {claim.name: done})  # read anew: several commands may share the work
        given.kept.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(given.kept, json.dumps({"data": "fashion_mnist", "cells": cells}, indent=1) + "\n")
        given.kept.with_suffix(".md").write_text(table(cells))
        print(f"{claim.name}: published {claim.published}, measured {done['measured']}, {done['seconds']} s", flush=True)
    print(table(kept(given.kept, split)))
    return 0 if all(c["within"] for c in kept(given.kept, split).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
