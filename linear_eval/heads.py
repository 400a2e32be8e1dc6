"""Many linear heads at once: every choice of columns × every learning rate, trained as one computation.

Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision" (arXiv 2304.07193, appendix B.3): 13
learning rates × {1, 4} blocks × with and without pooled patches are 52 heads on the same batches, the best on validation.
Ours learn from cached features, standardized: the heads of one choice of columns are one matrix, and gradients are p − y.
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
from linear_eval.probe_data import Labeled, ProbeData, Rows
from linear_eval.results import ProtocolResult
from linear_eval.standardize import Standardizer, as_tensor, fit_standardizer, row_blocks

Variants = dict[str, list[slice]]  # name → columns of the features


@dataclass(frozen=True)
class HeadsConfig:
    """How the heads are trained. rates: learning rates as torch.optim.SGD takes them, for this batch size."""

    rates: Sequence[float]
    epochs: int
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class VariantColumns:
    """Where a variant stands in the weight.  pairs: (columns of the features, columns of the weight); bias: a column"""

    pairs: list[tuple[slice, slice]]
    bias: int

    @property
    def all(self) -> slice:
        """Its columns of the weight and the bias."""
        return slice(self.pairs[0][1].start, self.bias + 1)


@dataclass(frozen=True)
class LinearHeads:
    """Linear heads on standardized columns: V variants × R rates, of C classes each.

    weight: C·R,W with the variants side by side, each its columns and then its bias. Row c·R + r is class c of rate r:
    so the softmax over classes runs along contiguous memory, 20 times as fast as over the last dimension.
    """

    variants: Variants
    rates: tuple[float, ...]
    standardizer: Standardizer
    columns: list[VariantColumns]
    weight: Tensor

    def logits(self, x: Tensor) -> Iterator[Tensor]:
        """Variant by variant.  standardized B,D → C,R,B each"""
        for columns in self.columns:
            z = self.weight[:, columns.bias : columns.bias + 1]
            for source, target in columns.pairs:
                z = torch.addmm(z, self.weight[:, target], x[:, source].T)
            yield z.unflatten(0, (-1, len(self.rates)))

    @torch.no_grad()
    def hits(self, data: Labeled) -> np.ndarray:
        """How many images each head gets right; −1 for a head with weights that are not finite.  N,D → V,R int64"""
        hits = torch.zeros(len(self.variants), len(self.rates), dtype=torch.int64, device=self.weight.device)
        for rows in row_blocks(data.x):
            y = as_tensor(data.labels[rows]).to(hits.device)
            hits += torch.stack([(z.argmax(0) == y).sum(1) for z in self.logits(self.standardizer(data.x[rows]))])
        finite = torch.stack([self.weight[:, columns.all].isfinite().all(1) for columns in self.columns])
        finite = finite.unflatten(1, (-1, len(self.rates))).all(1)  # V,C·R → V,R
        return torch.where(finite, hits, -1).cpu().numpy()

    @torch.no_grad()
    def probabilities(self, x: Rows, variant: str, rate: float) -> np.ndarray:
        """Of one head.  N,D → N,C"""
        v, r = list(self.variants).index(variant), self.rates.index(rate)
        parts = [[*self.logits(self.standardizer(x[rows]))][v][:, r].softmax(0).T.cpu() for rows in row_blocks(x)]
        return torch.cat(parts).numpy()


def columns_of(variants: Variants, width: int) -> list[VariantColumns]:
    """The variants side by side, each its columns and then its bias.  width: D, columns of the features"""
    layout, at = [], 0
    for slices in variants.values():
        sizes = [len(range(*s.indices(width))) for s in slices]
        starts = np.cumsum([at, *sizes]).tolist()
        pairs = [(s, slice(start, start + n)) for s, start, n in zip(slices, starts[:-1], sizes, strict=True)]
        layout.append(VariantColumns(pairs, starts[-1]))
        at = starts[-1] + 1
    return layout


@torch.no_grad()
def fit_heads(
    train: Labeled,
    classes: int,
    variants: Variants,
    config: HeadsConfig,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> LinearHeads:
    """Every head from zero by torch.optim.SGD's rule, its rate falling to zero along a cosine, step by step.

    Computed in float32, in float64 where the features are that. Memory: a batch of features and W·C·R numbers three times;
    the features may be memory-mapped, and a batch is read in the order of the file.
    """
    standardizer = fit_standardizer(train.x, device)
    dtype, layout, rates = standardizer.mean.dtype, columns_of(variants, train.x.shape[1]), tuple(config.rates)
    weight = torch.zeros(classes * len(rates), layout[-1].bias + 1, dtype=dtype, device=device)
    heads = LinearHeads(variants, rates, standardizer, layout, weight)
    gradient, velocity = torch.zeros_like(weight), torch.zeros_like(weight)
    rate = torch.tensor(rates, dtype=dtype, device=device).repeat(classes)[:, None]  # C·R,1
    labels = as_tensor(train.labels).cpu()
    several = labels.ndim == 2  # labels an image: binary cross-entropy of each class, summed
    step, steps = 0, config.epochs * -(-len(train) // config.batch_size)
    for epoch in range(config.epochs):
        for rows in counter_rng.permutation(config.seed, epoch, len(train)).split(config.batch_size):
            rows = rows.sort().values
            x = standardizer(train.x[rows.numpy()])  # B,D
            y = labels[rows] if several else F.one_hot(labels[rows], classes)
            y = y.T.to(device, dtype)[:, None]  # C,1,B
            for columns, z in zip(layout, heads.logits(x), strict=True):
                p = z.sigmoid() if several else z.softmax(0)
                error = (p - y).div_(len(rows)).flatten(0, 1)  # C·R,B: the loss's slope in z
                for source, target in columns.pairs:
                    torch.mm(error, x[:, source], out=gradient[:, target])
                gradient[:, columns.bias] = error.sum(1)
            velocity.mul_(config.momentum).add_(gradient).add_(weight, alpha=config.weight_decay)
            weight.addcmul_(velocity, rate, value=-cosine(step / steps, 1.0, 0.0))
            step += 1
        if progress:
            progress(epoch + 1, config.epochs)
    return heads


def linear_heads(
    data: ProbeData, variants: Variants, config: HeadsConfig, device: str | torch.device = "cpu"
) -> ProtocolResult:
    """The head with the best accuracy on validation (the first of equals), on the test images.

    A head that diverges loses. Raises ValueError where all do.
    """
    began = time.perf_counter()
    heads = fit_heads(data.train, data.classes, variants, config, device)
    hits = heads.hits(data.validation)
    if hits.max() < 0:
        rates = ", ".join(f"{rate:g}" for rate in heads.rates)
        raise ValueError(f"rates {rates}: every linear head diverged; give smaller ones")
    v, r = np.unravel_index(hits.argmax(), hits.shape)
    variant, rate = list(variants)[v], heads.rates[r]
    return ProtocolResult(
        method="linear",
        scores=heads.probabilities(data.test, variant, rate),
        chosen={"features": variant, "rate": rate, "epochs": config.epochs, "batch_size": config.batch_size},
        selected_on=data.selected_on,
        validation=float(hits[v, r] / len(data.validation) * 100),
        note=f"best of {hits.size} heads" + (f"; {(hits < 0).sum()} diverged" if (hits < 0).any() else ""),
        seconds=time.perf_counter() - began,
    )
