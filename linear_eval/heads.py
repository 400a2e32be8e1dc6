"""Many linear heads at once: every choice of columns × every learning rate, trained as one computation.

Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision" (arXiv 2304.07193, appendix B.3): 13
learning rates × {1, 4} blocks × with and without pooled patches are 52 heads on the same batches, the best on validation.
Ours learn from kept features, standardised: the heads of one choice of columns are one matrix, and gradients are p − y.
"""
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core import counter_rng
from core.schedule import cosine
from linear_eval.outcome import Outcome

BLOCK = 4_096  # rows that are converted from half precision at a time, outside training

Rows = np.ndarray | Tensor


@dataclass(frozen=True)
class Standard:
    """Columns to mean 0 and deviation 1 by the training images' figures.  mean, inverse (1 / deviation): D"""

    mean: Tensor
    inverse: Tensor

    def __call__(self, x: Rows) -> Tensor:
        """B,D → B,D"""
        return (tensor(x).to(self.mean.device).to(self.mean.dtype) - self.mean).mul_(self.inverse)


@dataclass(frozen=True)
class Heads:
    """Linear heads on standardised columns: V variants × R rates, of C classes each.

    weight: C·R,W with the variants side by side, each its columns and then its bias. Row c·R + r is class c of rate r:
    so the softmax over classes runs along contiguous memory, 20 times as fast as over the last dimension.
    """

    variants: dict[str, list[slice]]
    rates: tuple[float, ...]
    standard: Standard
    places: list[list[tuple[slice, slice]]]  # of each variant, which columns of the features meet which of the weight
    weight: Tensor

    def logits(self, x: Tensor) -> Iterator[Tensor]:
        """Variant by variant.  standardised B,D → C,R,B each"""
        for pairs in self.places:
            bias = pairs[-1][1].stop
            z = self.weight[:, bias : bias + 1]
            for columns, place in pairs:
                z = torch.addmm(z, self.weight[:, place], x[:, columns].T)
            yield z.unflatten(0, (-1, len(self.rates)))

    @torch.no_grad()
    def hits(self, x: Rows, labels: Rows) -> np.ndarray:
        """How many images each head gets right; −1 for a head that is no number any more.  N,D and N → V,R int64"""
        hits = torch.zeros(len(self.variants), len(self.rates), dtype=torch.int64, device=self.weight.device)
        for rows in blocks(x):
            y = tensor(labels[rows]).to(hits.device)
            hits += torch.stack([(z.argmax(0) == y).sum(1) for z in self.logits(self.standard(x[rows]))])
        finite = [self.weight[:, pairs[0][1].start : pairs[-1][1].stop + 1].isfinite().all(1) for pairs in self.places]
        finite = torch.stack(finite).unflatten(1, (-1, len(self.rates))).all(1)  # V,C·R → V,R
        return torch.where(finite, hits, -1).cpu().numpy()

    @torch.no_grad()
    def probabilities(self, x: Rows, variant: str, rate: float) -> np.ndarray:
        """Of one head.  N,D → N,C"""
        v, r = list(self.variants).index(variant), self.rates.index(rate)
        found = [[*self.logits(self.standard(x[rows]))][v][:, r].softmax(0).T.cpu() for rows in blocks(x)]
        return torch.cat(found).numpy()


def places_of(variants: dict[str, list[slice]], width: int) -> list[list[tuple[slice, slice]]]:
    """The variants side by side, each its columns and then its bias.  → (columns of the features, of the weight), …, each"""
    found, at = [], 0
    for slices in variants.values():
        sizes = [len(range(*s.indices(width))) for s in slices]
        starts = np.cumsum([at, *sizes]).tolist()
        found.append([(s, slice(a, a + size)) for s, a, size in zip(slices, starts, sizes, strict=False)])
        at = starts[-1] + 1
    return found


@torch.no_grad()
def fitted(
    train: Rows,
    labels: Rows,
    classes: int,
    variants: dict[str, list[slice]],
    rates: Sequence[float],
    epochs: int,
    batch_size: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Heads:
    """Every head from zero by torch.optim.SGD's rule, its rate falling to zero along a cosine, step by step.

    train: N,D with labels N. Computed in float32, in float64 where the features are that. Memory: a batch of features and
    W·C·R numbers three times; the features may be memory-mapped, and a batch is read in the order of the file.
    """
    standard = standard_of(train, device)
    dtype, places = standard.mean.dtype, places_of(variants, train.shape[1])
    weight = torch.zeros(classes * len(rates), places[-1][-1][1].stop + 1, dtype=dtype, device=device)
    heads = Heads(variants, tuple(rates), standard, places, weight)
    gradient, velocity = torch.zeros_like(weight), torch.zeros_like(weight)
    rate = torch.tensor(rates, dtype=dtype, device=device).repeat(classes)[:, None]  # C·R,1
    labels = tensor(labels).cpu()
    step, steps = 0, epochs * -(-len(train) // batch_size)
    for epoch in range(epochs):
        for rows in counter_rng.permutation(seed, epoch, len(train)).split(batch_size):
            rows = rows.sort().values
            x = standard(train[rows.numpy()])  # B,D
            y = F.one_hot(labels[rows], classes).T.to(device, dtype)[:, None]  # C,1,B
            for pairs, z in zip(places, heads.logits(x), strict=True):
                error = (z.softmax(0) - y).div_(len(rows)).flatten(0, 1)  # C·R,B: the loss's slope in z
                for columns, place in pairs:
                    torch.mm(error, x[:, columns], out=gradient[:, place])
                gradient[:, pairs[-1][1].stop] = error.sum(1)
            velocity.mul_(momentum).add_(gradient).add_(weight, alpha=weight_decay)
            weight.addcmul_(velocity, rate, value=-cosine(step / steps, 1.0, 0.0))
            step += 1
        if progress:
            progress(epoch + 1, epochs)
    return heads


def linear_heads(
    train: Rows,
    labels: Rows,
    validation: Rows,
    validation_labels: Rows,
    test: Rows,
    classes: int,
    variants: dict[str, list[slice]],
    rates: Sequence[float],
    epochs: int,
    batch_size: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The head with the best accuracy on validation (the first of equals), on the test images.

    N,D with labels N; V,D with labels V; M,D. variants: name → columns of the features; rates: learning rates as SGD takes
    them, for this batch size. A head that diverges loses. Raises ValueError where all do.
    """
    began = time.perf_counter()
    heads = fitted(train, labels, classes, variants, rates, epochs, batch_size, momentum, weight_decay, seed, device, progress)
    hits = heads.hits(validation, validation_labels)
    if hits.max() < 0:
        raise ValueError(f"rates {', '.join(f'{r:g}' for r in rates)}: every linear head diverged; give smaller ones")
    v, r = np.unravel_index(hits.argmax(), hits.shape)
    variant, rate = list(variants)[v], heads.rates[r]
    return Outcome(
        method="linear",
        scores=heads.probabilities(test, variant, rate),
        chosen={"features": variant, "rate": rate, "epochs": epochs, "batch_size": batch_size},
        selected_on=f"{len(validation):,} validation images",
        validation=float(hits[v, r] / len(validation) * 100),
        note=f"best of {hits.size} heads" + (f"; {(hits < 0).sum()} diverged" if (hits < 0).any() else ""),
        seconds=time.perf_counter() - began,
    )


# ---------------------------------------------------------------------------------------------------------- features


def tensor(x: Rows) -> Tensor:
    """The same numbers, as a tensor that shares their memory where it may be written to."""
    return x.detach() if isinstance(x, Tensor) else torch.from_numpy(x if x.flags.writeable else x.copy())


def blocks(x: Rows) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]


@torch.no_grad()
def standard_of(x: Rows, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Standard:
    """By the mean and the population's deviation of each column; in float32 unless `dtype` says, or x is float64.  N,D

    Summed in float64 blocks about the first row, in one pass: so a constant column's deviation is 0, not a rounded one, and
    `inverse` is 0 there: such a column stays 0 in other images too.
    """
    first = tensor(x[:1]).to(device).double()[0]
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for rows in blocks(x):
        part = tensor(x[rows]).to(device).double() - first
        total += part.sum(0)
        squares += part.square_().sum(0)
    mean = total / len(x)
    variance = squares / len(x) - mean.square()
    dtype = dtype or (torch.float64 if tensor(x[:1]).dtype == torch.float64 else torch.float32)
    return Standard((first + mean).to(dtype), torch.where(variance > 0, variance.rsqrt(), 0).to(dtype))
