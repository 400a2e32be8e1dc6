"""Losses equal the papers' equations, written here as loops in float64, and lightly's figures."""
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightly.loss import NTXentLoss
from processes import on
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from core.processes import gather, local_rows, rank
from ssl import losses
from ssl.losses import contrastive, nt_xent, queue_contrastive
from ssl.method.dcl import dcl_loss
from ssl.method.supcon import supcon_loss

ROOT = Path(__file__).resolve().parents[2]
D = 7
FLOAT32 = 2e-6  # a sum of a few hundred float32 terms, each rounded at 6e-8 of its size
TEMPERATURES = (0.01, 0.2, 1.0)  # at 0.01 e^(1/T) overflows float32: another way is taken (_exp_fits)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def nt_xent_loops(first: Tensor, second: Tensor, T: float) -> Tensor:
    """SimCLR, eq. 1 and algorithm 1: ℓ(i,j) over both orders of every pair, mean of 2N terms."""
    N = len(first)
    z = [row for pair in zip(first.double(), second.double(), strict=True) for row in pair]  # z_{2k−1}, z_{2k}

    def term(i: int, j: int) -> Tensor:
        below = sum(torch.exp(cosine(z[i], z[k]) / T) for k in range(2 * N) if k != i)
        return -torch.log(torch.exp(cosine(z[i], z[j]) / T) / below)

    return sum(term(2 * k, 2 * k + 1) + term(2 * k + 1, 2 * k) for k in range(N)) / (2 * N)


def contrastive_loops(queries, keys, positives, T, own=None) -> Tensor:
    """InfoNCE: the positive key's share of all keys but the query's own."""
    terms = []
    for i, q in enumerate(queries.double()):
        scores = [torch.exp(q @ k.double() / T) for k in keys]
        below = sum(s for j, s in enumerate(scores) if own is None or j != own[i])
        terms.append(-torch.log(scores[positives[i]] / below))
    return sum(terms) / len(terms)


def queue_loops(queries, keys, queue, T) -> Tensor:
    """MoCo, eq. 1, for each query; the sum is over one positive and K negatives."""
    terms = []
    for q, k in zip(queries.double(), keys.double(), strict=True):
        positive = torch.exp(q @ k / T)
        terms.append(-torch.log(positive / (positive + sum(torch.exp(q @ n.double() / T) for n in queue))))
    return sum(terms) / len(terms)


def value_and_gradients(loss, *inputs: Tensor) -> list[Tensor]:
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def assert_same(ours: list[Tensor], reference: list[Tensor], relative: float) -> None:
    for mine, theirs in zip(ours, reference, strict=True):
        mine, theirs = mine.double(), theirs.double()
        assert (mine - theirs).norm() <= relative * theirs.norm()


def unit(*shape: int, dtype=torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("N", [1, 2, 5, 33])
def test_nt_xent_is_the_papers_loop(N, T):
    first, second = torch.randn(N, D) * 3, torch.randn(N, D) * 0.1  # any length: it normalises
    reference = value_and_gradients(lambda a, b: nt_xent_loops(a, b, T), first.double(), second.double())
    ours = value_and_gradients(lambda a, b: nt_xent(a, b, T), first.double(), second.double())
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 / T)  # float64 on both sides; N = 1 is all zeros
    if N > 1:
        float32 = value_and_gradients(lambda a, b: nt_xent(a, b, T), first, second)
        assert_same(float32, reference, FLOAT32 / T)  # similarities round at 6e-8, and are divided by T


@pytest.mark.parametrize("T", TEMPERATURES)
def test_contrastive_is_the_loop_with_gradients_to_queries_and_keys(T):
    queries, keys = unit(6, D, dtype=torch.float64), unit(11, D, dtype=torch.float64)
    positives, own = torch.tensor([10, 0, 3, 3, 7, 1]), torch.tensor([0, 1, 2, 4, 5, 6])
    for skipped in (None, own):
        reference = value_and_gradients(lambda q, k: contrastive_loops(q, k, positives, T, skipped), queries, keys)  # noqa: B023
        ours = value_and_gradients(lambda q, k: contrastive(q, k, positives, T, skipped), queries, keys)  # noqa: B023
        assert_same(ours, reference, 1e-9)
        ours = value_and_gradients(
            lambda q, k: contrastive(q, k, positives, T, skipped), queries.float(), keys.float()  # noqa: B023
        )
        assert_same(ours, reference, FLOAT32 / T)


@pytest.mark.parametrize("T", [0.07, 1.0])
def test_queue_contrastive_is_the_papers_loop(T):
    queries, keys, queue = unit(5, D), unit(5, D), unit(13, D)
    reference = value_and_gradients(lambda q, k: queue_loops(q, k, queue, T), queries.double(), keys.double())
    ours = value_and_gradients(lambda q, k: queue_contrastive(q, k, queue, T), queries, keys)
    assert_same(ours, reference, FLOAT32 / T)


@pytest.mark.parametrize("N", [2, 100, 333])
@pytest.mark.parametrize("T", [0.01, 0.2])
def test_nt_xent_is_lightlys(N, T, monkeypatch):
    monkeypatch.setattr(losses, "TILE", 1)  # tiles of 64 rows, and a last one that is shorter
    first, second = torch.randn(N, 32), torch.randn(N, 32)
    theirs = value_and_gradients(NTXentLoss(temperature=T), first.double(), second.double())
    ours = value_and_gradients(lambda a, b: nt_xent(a, b, T), first, second)
    assert_same(ours, theirs, FLOAT32 / T)


def test_queue_contrastive_is_lightlys_memory_bank():
    queries, keys, queue = unit(50, 16), unit(50, 16), unit(200, 16)
    peer = NTXentLoss(temperature=0.2, memory_bank_size=(200, 16))
    peer.memory_bank.bank = queue.clone()
    theirs = value_and_gradients(lambda q: peer(q, keys), queries)
    ours = value_and_gradients(lambda q: queue_contrastive(F.normalize(q, dim=1), keys, queue, 0.2), queries)
    assert_same(ours, theirs, FLOAT32)


@pytest.mark.parametrize("T", [0.01, 0.2])
@pytest.mark.parametrize(("N", "M"), [(64, 64), (65, 200), (150, 129), (1, 300)])
def test_tiles_of_any_shape_equal_torchs_cross_entropy(N, M, T, monkeypatch):
    monkeypatch.setattr(losses, "TILE", 1)
    queries, keys, positives = unit(N, D), unit(M, D), torch.randint(M, (N,))
    reference = value_and_gradients(
        lambda q, k: F.cross_entropy(q @ k.T / T, positives), queries.double(), keys.double()
    )
    ours = value_and_gradients(lambda q, k: contrastive(q, k, positives, T), queries, keys)
    assert_same(ours, reference, FLOAT32 / T)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradcheck(symmetric, monkeypatch):
    monkeypatch.setattr(losses, "_exp_fits", lambda *_: symmetric)
    first, second, keys = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    own, positives = torch.arange(4), torch.tensor([1, 0, 3, 2])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (first, second))
    assert torch.autograd.gradcheck(lambda q, k: contrastive(q, k, positives, 0.5, own), (first, keys))


def test_extremes_stay_finite_and_right():
    """Opposite, equal and zero embeddings at the smallest temperature e^(1/T) is summed at, and below it."""
    z = unit(40, D)
    z[20:30], z[30:] = -z[:10], z[:10]
    edge = 1 / (0.9 * math.log(torch.finfo(torch.float32).max) - math.log(80))
    for T in (edge * 1.001, edge * 0.999):
        reference = F.cross_entropy(_logits(z.double(), -z.double(), T), torch.arange(80).roll(40))
        assert losses._exp_fits(T, 80, torch.float32) is bool(edge < T)
        assert nt_xent(z, -z, T).item() == pytest.approx(reference.item(), rel=1e-5)
    zero = torch.zeros(4, D, requires_grad=True)
    loss = nt_xent(zero, zero, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))  # all similarities alike: 7 others to choose from
    assert zero.grad.isfinite().all()


def _logits(first: Tensor, second: Tensor, T: float) -> Tensor:
    z = F.normalize(torch.cat([first, second]), dim=1)
    return (z @ z.T / T).fill_diagonal_(-math.inf)


@pytest.mark.parametrize("name", ["nt_xent", "contrastive", "queue"])
def test_half_precision_inputs_are_computed_in_float32(name):
    """As autocast hands them over: finite, and what float32 makes of the same rounded numbers."""
    first, second, queue = (unit(70, 16).bfloat16() for _ in range(3))
    function = {
        "nt_xent": lambda a, b: nt_xent(a, b, 0.05),
        "contrastive": lambda a, b: contrastive(a, b, torch.arange(70), 0.05),
        "queue": lambda a, b: queue_contrastive(a, b, queue.to(a.dtype), 0.05),
    }[name]
    with torch.autocast("cpu", torch.bfloat16):
        low = value_and_gradients(function, first, second)
    exact = value_and_gradients(function, first.float(), second.float())
    assert low[0].dtype == torch.float32
    assert low[0].item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert_same(low[1:], exact[1:], 2**-8)  # gradients are handed back in bfloat16's 8 bits
    assert all(g.isfinite().all() for g in low)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak in Linux's unit")
def test_memory_grows_with_the_batch_not_its_square():
    """16384 × 16384 similarities would be 1 GB; a fresh process's peak may grow by 150 MB.

    VmHWM, not ru_maxrss: that one starts at the size of the process that forked this one, and hides growth below it.
    """
    code = (
        "import re, torch\n"
        "from ssl.losses import nt_xent\n"
        "def step(n):\n"
        "    a, b = (torch.randn(n, 128, requires_grad=True) for _ in range(2))\n"
        "    nt_xent(a, b, 0.2).backward()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = step(64)\n"
        "print(step(8192) - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 150


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside holds."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def largest_of_each_loss(pairs: int) -> dict[str, int]:
    """Forward and backward on this process's half of so many pairs, with tiles of 64 rows."""
    losses.TILE = 1
    torch.manual_seed(0)
    z = local_rows(torch.randn(pairs, 2, D)).requires_grad_()
    labels, own = local_rows(torch.arange(pairs) % 7), torch.arange(len(z)) + rank() * len(z)
    found = {}
    for name, loss in {
        "nt_xent": lambda: nt_xent(z[:, 0], z[:, 1], 0.2),
        "contrastive": lambda: contrastive(F.normalize(z[:, 0], dim=1), gather(F.normalize(z[:, 1], dim=1)), own, 0.2),
        "dcl": lambda: dcl_loss(z[:, 0], z[:, 1], 0.2),
        "supcon": lambda: supcon_loss(z, labels, 0.2),
    }.items():
        with Largest() as largest:
            loss().backward()
        found[name] = largest.numbers
    return found


@pytest.mark.long
def test_no_process_ever_holds_the_matrix_of_similarities():
    """512 pairs on two processes: 64 rows of similarities to 1,024 embeddings at a time, where a half has 512 × 1,024."""
    for found in on(2, largest_of_each_loss, 512):
        assert found["contrastive"] == 64 * 512
        assert {found[name] for name in ("nt_xent", "dcl", "supcon")} == {64 * 1024}
