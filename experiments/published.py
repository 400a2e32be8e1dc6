"""Fits a classical classifier with the settings of a published figure on Fashion-MNIST.  Cells of fashion_mnist_baselines.

A tool of its own because no command of linear_eval has these settings: those of the data set's paper (Xiao et al. 2017, arXiv
1708.07747, table 3) with the code of its benchmark (benchmark/runner.py in github.com/zalandoresearch/fashion-mnist), and of
the table of submitted results in that repository's README. Official split: 60,000 and 10,000 images.
"""
import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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
from linear_eval.descriptors import hog
from vision.datasets import load

QUICK = 2_000, 500  # train and test images
CHECKED = 200  # queries on which faiss and scikit-learn must agree
BLOCK = 500  # images a call of hog


@dataclass(frozen=True)
class Split:
    """train, test: N,1,28,28 uint8 and their labels."""

    train: Tensor
    train_labels: np.ndarray
    test: Tensor
    test_labels: np.ndarray

    def standardized(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels as the benchmark scales them: each with mean 0 and deviation 1 over train.  → N,784 and M,784"""
        train, test = (images.flatten(1).numpy().astype(np.float64) for images in (self.train, self.test))
        scaler = StandardScaler().fit(train)
        return scaler.transform(train), scaler.transform(test)


def nearest(split: Split) -> np.ndarray:
    """kNN: n_neighbors=5, p=1, weights=distance.

    By faiss's exact search, in a fraction of scikit-learn's time.  Raises AssertionError where both differ on some queries.
    """
    train, test = split.standardized()
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
        train, test = split.standardized()
        return model.fit(train, split.train_labels).predict(test)

    return predict


def on_hog(model) -> Callable[[Split], np.ndarray]:
    def predict(split: Split) -> np.ndarray:
        train, test = (np.concatenate([hog(part) for part in images.split(BLOCK)]) for images in (split.train, split.test))
        return model.fit(train, split.train_labels).predict(test)

    return predict


L1_LOGISTIC = LogisticRegression(C=1.0, l1_ratio=1.0, solver="liblinear", random_state=0)  # theirs: penalty="l1"
CLASSIFIERS: dict[str, Callable[[Split], np.ndarray]] = {
    "kNN": nearest,
    "random forest": on_pixels(RandomForestClassifier(100, criterion="entropy", max_depth=100, random_state=0, n_jobs=-1)),
    "logistic regression": on_pixels(OneVsRestClassifier(L1_LOGISTIC)),  # scikit-learn has dropped multi_class
    "MLP": on_pixels(MLPClassifier((100,), activation="relu", random_state=0)),
    "SVC": on_pixels(SVC(C=10, gamma="auto", cache_size=2000)),
    "HOG + SVM": on_hog(SVC(C=10, cache_size=2000)),
}


def official(quick: bool) -> Split:
    data = load("fashion_mnist", validation=0)
    train, test = QUICK if quick else (len(data.train), len(data.test))
    assert quick or (train, test) == (60_000, 10_000)
    return Split(data.train.images[:train], data.train.labels[:train].numpy(),
                 data.test.images[:test], data.test.labels[:test].numpy())


def measure(name: str, split: Split) -> dict:
    """Test accuracy in %, and the numbers of training and test images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # liblinear's 100 iterations are the published setting
        predicted = CLASSIFIERS[name](split)
    accuracy = round(float((predicted == split.test_labels).mean() * 100), 2)
    return {"accuracy": accuracy, "images": [len(split.train), len(split.test)]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", choices=CLASSIFIERS, required=True)
    parser.add_argument("--quick", action="store_true", help="2,000 images, to see that it runs; the figures mean nothing")
    parser.add_argument("--out", type=Path, required=True, help="the JSON of the figures")
    options = parser.parse_args(argv)
    result = measure(options.classifier, official(options.quick))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(options.out, json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
