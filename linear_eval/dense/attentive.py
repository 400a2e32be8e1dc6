"""The attentive probe: one learned query attends to an image's frozen patches, and a linear layer classifies what it gathers.

Darcet et al. 2025, "Cluster and Predict Latent Patches" (CAPI, arXiv 2502.08769): cross-attention of one query with D/64 heads,
without MLP, norm and output projection. Ours learns from cached patches, standardized by column. A grid of learning rates and
weight decays is trained at once, on the same batches.

With a single query the keys need not be computed: q·(K x) = (Kᵀq)·x, and values are needed of the weighted mean alone. So a
step costs a product of patches with heads × grid vectors, not two projections of each patch; the gradients are the same.
"""
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import counter_rng
from core.run import counting
from core.schedule import warmup_cosine
from linear_eval.results import ProtocolResult
from linear_eval.standardize import Standardizer, fit_standardizer

HEAD = 64  # columns of an attention head
WARMUP = 0.1  # share of the steps
BLOCK = 256  # images scored at a time


@dataclass(frozen=True)
class AttentiveConfig:
    """rates, decays: of AdamW; the learning rate rises over WARMUP and falls to 0 along a cosine.

    epochs: more where they would be fewer than `least_steps` steps.
    """

    rates: Sequence[float]
    decays: Sequence[float]
    epochs: int
    batch_size: int
    least_steps: int = 0
    seed: int = 0

    @property
    def grid(self) -> list[tuple[float, float]]:
        return list(itertools.product(self.rates, self.decays))


@dataclass(frozen=True)
class LabeledPatches:
    """x: M,n,D, possibly memory-mapped; labels: M int64"""

    x: np.ndarray
    labels: np.ndarray


class AttentivePool(nn.Module):
    """One probe of the grid.  Its parameters alone; `logits` computes several at once."""

    def __init__(self, dim: int, classes: int, generator: torch.Generator):
        super().__init__()
        self.heads = next(h for h in range(max(1, dim // HEAD), 0, -1) if dim % h == 0)
        bound = dim**-0.5
        self.query = nn.Parameter(0.02 * torch.randn(self.heads, dim // self.heads, generator=generator))
        shape = self.heads, dim // self.heads, dim
        self.key, self.value = (nn.Parameter(bound * (2 * torch.rand(shape, generator=generator) - 1)) for _ in range(2))
        self.weight, self.bias = nn.Parameter(torch.zeros(classes, dim)), nn.Parameter(torch.zeros(classes))


def logits(probes: Sequence[AttentivePool], x: Tensor) -> Tensor:
    """Of G probes.  B,n,D → G,B,C"""
    query, key, value, weight, bias = (
        torch.stack([getattr(p, name) for p in probes]) for name in ("query", "key", "value", "weight", "bias")
    )
    asked = torch.einsum("ghe,ghed->ghd", query, key) * query.shape[2] ** -0.5  # Kᵀq
    attention = (x @ asked.flatten(0, 1).T).softmax(1)  # B,n,G·h
    gathered = (attention.mT @ x).unflatten(1, asked.shape[:2])  # B,G,h,D
    pooled = torch.einsum("bghd,ghed->gbhe", gathered, value).flatten(2)  # G,B,D
    return torch.baddbmm(bias[:, None], pooled, weight.mT)


@dataclass(frozen=True)
class AttentiveProbes:
    """The trained grid, and the columns' standardization."""

    probes: list[AttentivePool]
    standardizer: Standardizer
    config: AttentiveConfig

    @torch.no_grad()
    def scores(self, x: np.ndarray, which: Sequence[int]) -> Tensor:
        """Logits of some probes.  M,n,D → G,M,C"""
        some = [self.probes[i] for i in which]
        parts = [logits(some, self.standardizer(x[start : start + BLOCK])) for start in range(0, len(x), BLOCK)]
        return torch.cat(parts, 1).cpu()


def fit_attentive(
    train: LabeledPatches, classes: int, config: AttentiveConfig, device: torch.device, title: str = "attentive probe"
) -> AttentiveProbes:
    """Every pair of rate and decay from the same weights by torch.optim.AdamW. Memory: a batch, and 2·D² numbers a pair four
    times."""
    flat = train.x.reshape(-1, train.x.shape[2])
    standardizer, y = fit_standardizer(flat, device, torch.float32), torch.from_numpy(train.labels)
    probes = []
    for _ in config.grid:
        probe = AttentivePool(flat.shape[1], classes, torch.Generator().manual_seed(config.seed))
        probes.append(probe.to(device))
    groups = [
        {"params": list(p.parameters()), "lr": rate, "weight_decay": decay}
        for p, (rate, decay) in zip(probes, config.grid, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)
    an_epoch = -(-len(y) // config.batch_size)
    epochs = max(config.epochs, -(-config.least_steps // an_epoch))
    step, steps = 0, epochs * an_epoch
    with counting(title) as progress:
        for epoch in range(epochs):
            for rows in counter_rng.permutation(config.seed, epoch, len(y)).split(config.batch_size):
                for group, (rate, _) in zip(optimizer.param_groups, config.grid, strict=True):
                    group["lr"] = warmup_cosine((step + 1) / steps, peak=rate, warmup=WARMUP)
                rows = rows.sort().values
                z = logits(probes, standardizer(train.x[rows.numpy()]))
                target = y[rows].to(device).expand(len(probes), -1)
                loss = F.cross_entropy(z.flatten(0, 1), target.flatten(), reduction="sum") / len(rows)  # the sum of all probes'
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                progress(step, steps)
    return AttentiveProbes(probes, standardizer, config)


def attentive(
    train: LabeledPatches, validation: LabeledPatches, test: Iterable[np.ndarray], classes: int, config: AttentiveConfig,
    device: torch.device,
) -> ProtocolResult:
    """The probe with the best accuracy on validation (the first of equals), on the test images, given as blocks of M,n,D.

    A probe that diverges loses. Raises ValueError where all do.
    """
    began = time.perf_counter()
    fitted = fit_attentive(train, classes, config, device)
    z = fitted.scores(validation.x, range(len(config.grid)))
    hits = (z.argmax(2) == torch.from_numpy(validation.labels)).sum(1)
    hits[~z.isfinite().flatten(1).all(1)] = -1
    best = int(hits.argmax())
    if hits[best] < 0:
        raise ValueError("protocol.attentive.rates: every attentive probe diverged; give smaller ones")
    rate, decay = config.grid[best]
    return ProtocolResult(
        method="attentive",
        scores=np.concatenate([fitted.scores(x, [best])[0].softmax(1).numpy() for x in test]),
        chosen={"rate": rate, "decay": decay},
        selected_on=f"{len(validation.labels):,} validation images",
        validation=float(hits[best] / len(validation.labels) * 100),
        note=f"best of {len(hits)} probes" + (f"; {int((hits < 0).sum())} diverged" if (hits < 0).any() else ""),
        seconds=time.perf_counter() - began,
    )
