"""Losses, forward and backward: lightly's modules against our functions, the same values and gradients demanded of both.

    uv run python -m experiments.speed.losses --keep

A loss is an entry of `table`: how to call the peer, how to call ours, and the inputs, of the size at which its paper or
its authors' code trains where a CPU allows it. lightly 1.6.0 has no SupCon: there the peer is the dense form of the paper.
A loss that differs is not timed. Memory is measured in memory.py.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.processes import session
from experiments.speed.side_by_side import arguments, compare, report, skip

TEMPERATURE = 0.2
TOLERANCE = 1e-3  # of values and gradients, relative to their size; float32 sums of 8,192 rows leave about 1e-6


class Entry(NamedTuple):
    shape: tuple[int, ...]  # V views, B images, P columns
    peer: Callable[..., Tensor]  # V tensors B,P → loss
    ours: Callable[..., Tensor]
    against: str = "lightly"


def table(device: torch.device) -> dict[str, Entry]:
    from lightly import loss as peers

    from ssl.losses import nt_xent
    from ssl.method.barlow_twins import barlow_twins_loss
    from ssl.method.dcl import dcl_loss
    from ssl.method.dino import dino_loss
    from ssl.method.lejepa import sigreg
    from ssl.method.simsiam import negative_cosine
    from ssl.method.supcon import supcon_loss
    from ssl.method.vicreg import vicreg_loss

    T, slices, sigma = TEMPERATURE, 1024, 0.5
    cosine, gaussian = peers.NegativeCosineSimilarity(), peers.SIGReg(num_vectors=slices).to(device)
    dino = peers.DINOLoss(output_dim=65536).to(device)  # moves its centre with each call, which ours does in after_step
    return {
        "NT-Xent": Entry((2, 8192, 128), peers.NTXentLoss(T), lambda a, b: nt_xent(a, b, T)),
        "DCL": Entry((2, 4096, 128), peers.DCLLoss(T), lambda a, b: dcl_loss(a, b, T)),
        "DCLW": Entry((2, 4096, 128), peers.DCLWLoss(T, sigma), lambda a, b: dcl_loss(a, b, T, sigma)),
        "SupCon": Entry(
            (2, 2048, 128), dense_supcon, lambda *z: supcon_loss(torch.stack(z, 1), classes(z[0]), T), "the dense form"
        ),
        "Barlow Twins": Entry((2, 1024, 4096), peers.BarlowTwinsLoss(0.0051), lambda a, b: barlow_twins_loss(a, b, 0.0051)),
        "VICReg": Entry((2, 1024, 4096), peers.VICRegLoss(), lambda a, b: vicreg_loss(a, b, 25.0, 25.0, 1.0)),
        "SwaV": Entry((8, 256, 3000), lambda *z: peers.SwaVLoss()(z[:2], z[2:])[0], swav),
        "DINO": Entry(
            (8, 64, 65536),
            lambda *z: dino([teacher(x) for x in z[:2]], list(z)),
            lambda *z: dino_loss(torch.stack(z, 1), torch.stack([teacher(x) for x in z[:2]], 1), 0, 0.1, 0.04),
        ),
        "negative cosine": Entry((2, 4096, 2048), lambda p, z: cosine(p, z.detach()), negative_cosine),
        "SIGReg": Entry(
            (8, 256, 128),
            lambda *z: seeded(lambda: gaussian(torch.stack(z))),
            lambda *z: seeded(lambda: sigreg(torch.stack(z, 1), directions(z[0].shape[1], slices, device))),
        ),
    }


def directions(P: int, count: int, device: torch.device) -> Tensor:
    return F.normalize(torch.randn(P, count, device=device), dim=0)


def classes(z: Tensor) -> Tensor:
    """Ten labels."""
    return torch.arange(len(z), device=z.device) % 10


def teacher(z: Tensor) -> Tensor:
    """Another network's outputs, that no gradient reaches."""
    return z.detach().roll(1, 1)


def seeded(work: Callable[[], Tensor]) -> Tensor:
    """Both draw the same directions."""
    torch.manual_seed(0)
    return work()


def dense_supcon(*views: Tensor) -> Tensor:
    """Khosla et al. 2020 (arXiv 2004.11362), eq. 2, with the matrix of all similarities, as its authors' code has it."""
    z, labels = F.normalize(torch.cat(views), dim=1), classes(views[0]).repeat(len(views))
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / TEMPERATURE).masked_fill(~others, float("-inf"))
    same = (labels[:, None] == labels) & others
    log_probability = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~same, 0)
    return -(log_probability.sum(1) / same.sum(1)).mean()


def swav(*scores: Tensor) -> Tensor:
    """The two losses of ssl/method/swav.py joined as there: assignments of the first two views, predicted by the others."""
    from ssl.method.swav import sinkhorn, swapped_prediction

    assigned = [sinkhorn(s.detach(), 0.05, 3) for s in scores[:2]]
    losses = [swapped_prediction(s, q, 0.1) for t, q in enumerate(assigned) for v, s in enumerate(scores) if v != t]
    return torch.stack(losses).mean()


def work(loss: Callable[..., Tensor], views: list[Tensor]) -> Callable[[], int]:
    """Forward and backward once a call."""

    def call() -> int:
        for view in views:
            view.grad = None
        loss(*views).backward()
        if views[0].is_cuda:
            torch.cuda.synchronize()
        return 1

    return call


def inputs(shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    V, B, P = shape
    scale = P**-0.5 if V > 2 and P > 1000 else 1.0  # scores of prototypes are inner products of unit vectors
    return [(torch.randn(B, P) * scale).to(device).requires_grad_() for _ in range(V)]


def difference(entry: Entry, views: list[Tensor]) -> dict[str, float]:
    """How far apart the two are, relative to the peer's own size."""
    values, gradients = [], []
    for loss in (entry.peer, entry.ours):
        for view in views:
            view.grad = None
        value = loss(*views)
        value.backward()
        values.append(value.detach())
        gradients.append(torch.cat([v.grad.flatten() for v in views if v.grad is not None]))
    (p, q), (g, h) = values, gradients
    return {"value": float((p - q).abs() / p.abs()), "gradient": float((g - h).norm() / g.norm())}


def main() -> None:
    settings = arguments(__doc__.splitlines()[0], only=("", "names of losses, by comma; all if empty"))
    cases, notes = {}, {}
    with session(settings.device) as world:
        entries = table(world.device)
        for name in filter(None, settings.only.split(",")) if settings.only else entries:
            if name not in entries:
                raise SystemExit(f"--only {name}: there are {', '.join(entries)}")
            entry = entries[name]
            V, B, P = entry.shape
            if settings.quick:
                B, P = min(B, 32), P if name == "DINO" else min(P, 64)
            views = inputs((V, B, P), world.device)
            label = f"{name}, {V} views of {B:,} × {P:,}"
            apart = difference(entry, views)
            notes[f"{label}: difference"] = f"value {apart['value']:.0e}, gradients {apart['gradient']:.0e}"
            if max(apart.values()) > TOLERANCE:
                skip(label, f"not the same loss: {notes[f'{label}: difference']}")
                continue
            cases[label] = compare(work(entry.peer, views), work(entry.ours, views), settings.rounds, entry.against)
    report("losses", "calls/s", cases, settings, notes)


if __name__ == "__main__":
    main()
