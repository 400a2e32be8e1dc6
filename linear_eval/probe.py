"""Linear classifiers on frozen features: logistic regression and ridge, on all labels or few.

Settings that are chosen are chosen on validation images; where none are given, none is chosen.
"""
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from linear_eval import subsets
from linear_eval.heads import Rows, Standard, blocks, standard_of, tensor
from linear_eval.knn import knn_accuracy
from linear_eval.outcome import Outcome

ITERATIONS = 100  # of L-BFGS, at most
CONVERGED = 1_000  # the same, where it is meant to arrive
TOLERANCE = 1e-4  # scikit-learn's: no slope of the objective is greater where L-BFGS stops
HELD = 2**30  # bytes of standardised float32 features that logistic regression keeps rather than compute again each time
NEIGHBOURS = 5  # of SMOTE


def logistic_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent of logistic regression (C = 1, standardised features) from every label of the bank.

    bank: N,D and queries: M,D with their N and M labels.
    """
    return _logistic(*_arrays(bank, bank_labels, queries, labels), ITERATIONS)


def few_labels(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, per_class: int = 5, draws: int = 5, seed: int = 0
) -> tuple[float, float]:
    """The same from `per_class` labels a class.

    → mean and standard deviation over `draws` choices of the labelled images, in per cent. Classes with fewer images give
    all they have.
    """
    bank, bank_labels, queries, labels = _arrays(bank, bank_labels, queries, labels)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        groups = [np.flatnonzero(bank_labels == c) for c in np.unique(bank_labels)]
        chosen = np.concatenate([rng.permutation(group)[:per_class] for group in groups])
        scores.append(_logistic(bank[chosen], bank_labels[chosen], queries, labels))
    return float(np.mean(scores)), float(np.std(scores))


def frozen_scores(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """What the tools' reports say of frozen features: accuracy in per cent by kNN, by all labels and by five a class.

    → "knn"; "logistic", by `logistic_accuracy`; "five_labels" and "five_labels_std", by `few_labels`.
    bank: N,D and queries: M,D with their N and M labels.
    """
    known = bank, bank_labels, queries, labels
    few, deviation = few_labels(*known)
    scores = {"knn": knn_accuracy(*known, classes), "logistic": logistic_accuracy(*known)}
    return scores | {"five_labels": few, "five_labels_std": deviation}


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().float().cpu().numpy() for x in tensors]


def _logistic(
    bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, labels: np.ndarray, iterations: int = 200
) -> float:
    scaler = StandardScaler().fit(bank)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=iterations).fit(scaler.transform(bank), bank_labels)
    return float((model.predict(scaler.transform(queries)) == labels).mean() * 100)


# ------------------------------------------------------------------------------------------------- logistic regression


def logistic(
    train: Rows,
    labels: Rows,
    validation: Rows,
    validation_labels: Rows,
    test: Rows,
    classes: int,
    Cs: Sequence[float],
    iterations: int = CONVERGED,
    device: str | torch.device = "cpu",
) -> Outcome:
    """Logistic regression with the C that is best on validation (the smallest of equals), on the test images.

    N,D with labels N; V,D with labels V; M,D. scikit-learn's model on standardised features: its objective, solver (L-BFGS
    of scipy) and tolerance, each C starting from the smaller one's solution. Computed in blocks on `device`: memory is
    HELD bytes at most and a block. A class without a training image has probability 0. Raises ValueError for one class.
    """
    began = time.perf_counter()
    present, y = _present(labels)
    standard = standard_of(train, device)
    x, weight, best, unfinished = _parts(train, standard), None, None, []
    for C in sorted(Cs):
        weight, finished = _fit(x, y, len(present), C, iterations, weight)
        hits = _hits(standard, validation, validation_labels, present, weight)
        unfinished += [] if finished else [C]
        if best is None or hits > best[0]:
            best = hits, C, weight
    hits, C, weight = best
    scores = np.zeros((len(test), classes))
    scores[:, present] = np.concatenate([z.softmax(1).cpu().numpy() for z in _logits(standard, test, weight)])
    return Outcome(
        method="logistic",
        scores=scores,
        chosen={"C": C},
        selected_on=f"{len(validation):,} validation images",
        validation=hits / len(validation) * 100,
        note=f"not converged in {iterations} iterations: C = {', '.join(f'{c:g}' for c in unfinished)}" if unfinished else "",
        seconds=time.perf_counter() - began,
    )


def label_curve(
    train: Rows,
    labels: Rows,
    test: Rows,
    test_labels: Rows,
    classes: int,
    counts: Sequence[int],
    draws: int,
    seed: int,
    C: float = 1.0,
    device: str | torch.device = "cpu",
) -> list[dict[str, float]]:
    """Test accuracy in per cent of logistic regression (C fixed: nothing is selected) from `counts` labels a class.

    N,D with labels N; M,D with labels M → {"per_class", "mean", "std", "draws"} a count, over draws of the labelled images.
    Smaller classes give all they have; a count that no class exceeds would be all labels and is left out.
    """
    labels = np.asarray(labels)
    largest, curve = np.bincount(labels).max(), []
    for count in (c for c in counts if c < largest):
        scores = []
        for draw in range(draws):
            rows = subsets.per_class(labels, count, seed, draw)
            (present, y), standard = _present(labels[rows]), standard_of(train[rows], device)
            weight, _ = _fit(_parts(train[rows], standard), y, len(present), C, CONVERGED)
            scores.append(_hits(standard, test, test_labels, present, weight) / len(test) * 100)
        curve.append({"per_class": count, "mean": float(np.mean(scores)), "std": float(np.std(scores)), "draws": draws})
    return curve


def _present(labels: Rows) -> tuple[np.ndarray, Tensor]:
    """Which classes there are, and each label as its place among them.  Raises ValueError where there is one."""
    present, place = np.unique(np.asarray(labels), return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"every training label is class {present[0]}: a classifier needs images of two classes or more")
    return present, torch.from_numpy(place)


def _parts(train: Rows, standard: Standard) -> Iterable[Tensor]:
    """Standardised features in blocks: kept where they are small enough, computed each time where not."""
    parts = _Parts(train, standard)
    return list(parts) if train.shape[0] * train.shape[1] * standard.mean.itemsize <= HELD else parts


@dataclass(frozen=True)
class _Parts:
    train: Rows
    standard: Standard

    def __iter__(self) -> Iterator[Tensor]:
        return (self.standard(self.train[rows]) for rows in blocks(self.train))


def _logits(standard: Standard, x: Rows, weight: Tensor) -> Iterator[Tensor]:
    """weight: K,D+1, the bias last.  M,D → B,K by blocks"""
    return (torch.addmm(weight[:, -1], standard(x[rows]), weight[:, :-1].T) for rows in blocks(x))


def _hits(standard: Standard, images: Rows, labels: Rows, present: np.ndarray, weight: Tensor) -> int:
    found = np.concatenate([z.argmax(1).cpu().numpy() for z in _logits(standard, images, weight)])
    return int((present[found] == np.asarray(labels)).sum())


@torch.no_grad()
def _fit(
    x: Iterable[Tensor], y: Tensor, K: int, C: float, iterations: int, start: Tensor | None = None
) -> tuple[Tensor, bool]:
    """Minimise mean cross-entropy + ‖w‖² / 2CN, biases free.  x: blocks of N,D; y: N → weight: K,D+1, and did it converge?

    scikit-learn's model of two classes has one vector, the difference of our two. At the same w it pays w² where ours pay
    2 · (w/2)², so ours pay twice.
    """
    first = next(iter(x))
    device, dtype, D = first.device, first.dtype, first.shape[1]
    y = y.to(device)
    N, bend = len(y), (2 if K == 2 else 1) / (C * len(y))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(flat.reshape(K, -1)).to(device, dtype)
        loss, slope, at = torch.zeros((), dtype=torch.float64, device=device), torch.zeros_like(weight), 0
        for part in x:
            target = y[None, at : at + len(part)]
            at += len(part)
            logp = torch.addmm(weight[:, -1:], weight[:, :-1], part.T).log_softmax(0)  # K,B
            loss -= logp.gather(0, target).sum(dtype=torch.float64)
            error = logp.exp_().scatter_add_(0, target, logp.new_full(target.shape, -1))  # p − y
            slope[:, :-1].addmm_(error, part)
            slope[:, -1] += error.sum(1)
        slope = slope.double().cpu().numpy() / N
        w = flat.reshape(K, -1)[:, :-1]
        slope[:, :-1] += bend * w
        return float(loss) / N + bend / 2 * float(np.square(w).sum()), slope.ravel()

    flat = np.zeros(K * (D + 1)) if start is None else start.double().cpu().numpy().ravel()
    options = {"maxiter": iterations, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps}  # scikit-learn's
    with threadpool_limits(1, user_api="blas"):  # SciPy's waiting threads would take torch's cores: 5 to 16 × slower
        found = minimize(objective, flat, method="L-BFGS-B", jac=True, options=options)
    return torch.from_numpy(found.x.reshape(K, -1)).to(device, dtype), found.nit < iterations


# --------------------------------------------------------------------------------------------------------- ridge, SMOTE


@torch.no_grad()
def ridge(
    train: Rows,
    labels: Rows,
    validation: Rows,
    validation_labels: Rows,
    test: Rows,
    classes: int,
    lambdas: Sequence[float],
    device: str | torch.device = "cpu",
) -> Outcome:
    """scikit-learn's RidgeClassifier on standardised features with the λ that is best on validation (the first of equals).

    N,D with labels N; V,D with labels V; M,D. One eigendecomposition XᵀX = QEQᵀ serves every λ: w = Q (E + λ)⁻¹ QᵀXᵀY, in
    float64. scores are its decision function; two classes have −d and d; a class without a training image lies 1 below the
    least. Memory: 3 D² numbers and a block. Raises ValueError for one class.
    """
    began = time.perf_counter()
    present, y = _present(labels)
    standard = standard_of(train, device, torch.float64)
    D, K = train.shape[1], len(present)
    targets = F.one_hot(y.to(device), K).double() * 2 - 1  # N,K of ±1
    shift = targets.mean(0)
    square = torch.zeros(D, D, dtype=torch.float64, device=device)
    product = torch.zeros(D, K, dtype=torch.float64, device=device)
    for rows in blocks(train):
        x = standard(train[rows])
        square.addmm_(x.T, x)
        product.addmm_(x.T, targets[rows])  # x has mean 0, so the targets need not
    E, Q = torch.linalg.eigh(square)
    rotated = Q.T @ product  # D,K

    def decision(x: Tensor, value: float) -> Tensor:
        return torch.addmm(shift, x, rotated / (E.clamp(min=0) + value)[:, None])  # B,D rotated → B,K

    hits = np.zeros(len(lambdas), np.int64)
    for rows in blocks(validation):
        x, wanted = standard(validation[rows]) @ Q, np.asarray(validation_labels[rows])
        hits += [(present[decision(x, value).argmax(1).cpu().numpy()] == wanted).sum() for value in lambdas]
    value = lambdas[hits.argmax()]
    found = torch.cat([decision(standard(test[rows]) @ Q, value) for rows in blocks(test)]).cpu().numpy()
    scores = np.full((len(test), classes), found.min() - 1)
    scores[:, present] = found
    return Outcome(
        method="ridge",
        scores=scores,
        chosen={"lambda": value},
        selected_on=f"{len(validation):,} validation images",
        validation=float(hits.max() / len(validation) * 100),
        probabilities=False,
        seconds=time.perf_counter() - began,
    )


def smote(x: Rows, labels: Rows, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Every class as large as the largest, by points between an image's features and a neighbour's of its class.

    Chawla et al. 2002, "SMOTE" (arXiv 1106.1813), imbalanced-learn's.  N,D and N → ≥N,D float32 and labels, all in memory.
    Raises ValueError for one class, and where a class has one image.
    """
    from imblearn.over_sampling import SMOTE  # takes a while to load, and few need it

    labels = np.asarray(labels)
    present, _ = _present(labels)
    sizes = np.bincount(labels)[present]
    if sizes.min() < 2:
        raise ValueError(
            f"smote: class {present[sizes.argmin()]} has one labelled image and nothing lies between it and another of its "
            "class; take a greater share of the labels, or leave smote out"
        )
    sampler = SMOTE(k_neighbors=min(NEIGHBOURS, int(sizes.min()) - 1), random_state=seed)
    return sampler.fit_resample(tensor(x).float().cpu().numpy(), labels)
