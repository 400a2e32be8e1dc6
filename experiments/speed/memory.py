"""Memory that NT-Xent needs beyond its inputs, forward and backward: lightly's NTXentLoss against ours, and as computed.

    uv run python -m experiments.speed.memory --keep

Measured in a fresh process for each size: by how much the call raises its peak (VmHWM) over that of a small call. The
computed figure counts what the code of ssl/losses.py holds at its peak, to 1 % of what torch's profiler sees allocated; a
process takes more, because freed memory lies between pieces in use. Where no measurement is quick, it stands alone.
"""
import re
import subprocess
import sys
from pathlib import Path

import torch

from core.processes import session
from experiments.speed.side_by_side import arguments, paired, report, skip
from ssl.losses import TILE, nt_xent

TEMPERATURE = 0.2
MB = 2**20


def computed(pairs: int, dim: int) -> float:
    """MB that ours holds at its peak, as the backward pass of `_SymmetricCrossEntropy` returns, in float32.

    Five arrays of all embeddings (joined, normalised, divided by T, gradient, scaled gradient) and two tiles.
    8,192 pairs × 128: 5 · 8 + 2 · 16 = 72 MB
    """
    rows = 2 * pairs
    embeddings, tile = 4 * rows * dim, 4 * max(64 * rows, TILE)
    return (5 * embeddings + 2 * min(tile, 4 * rows * rows)) / MB


def dense(pairs: int) -> float:
    """MB of one matrix of all similarities in float32; with its gradient there are two at least."""
    return 4 * (2 * pairs) ** 2 / MB


def loss(name: str):
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE) if name == "peer" else lambda a, b: nt_xent(a, b, TEMPERATURE)


def measured(name: str, pairs: int, dim: int) -> float:
    code = f"from experiments.speed.memory import peak; print(peak({name!r}, {pairs}, {dim}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def peak(name: str, pairs: int, dim: int) -> float:
    """MB that one call adds to the peak of this process, which must be a fresh one."""
    call = loss(name)
    with session("cpu"):
        for count in (64, pairs):
            views = [torch.randn(count, dim, requires_grad=True) for _ in range(2)]
            before = high_water()
            call(*views).backward()
    return (high_water() - before) / 1024


def high_water() -> int:
    """This process's peak memory in kB (VmHWM; ru_maxrss would start at the parent's size)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        pairs=("1024,2048,4096,8192,16384,32768,65536", "pairs of embeddings, by comma", "256,512"),
        dim=(128, "their length"),
        ours=(32768, "measure ours up to so many pairs"),
        peer=(8192, "measure the peer up to so many pairs"),
    )
    if settings.device.startswith("cuda") or not Path("/proc/self/status").exists():
        skip("memory", "reads a process's peak from Linux's /proc; run it with --device cpu")
        return
    cases, notes = {}, {}
    with session("cpu"):
        for pairs in map(int, settings.pairs.split(",")):
            found = f"{computed(pairs, settings.dim):,.0f} MB computed; one dense matrix {dense(pairs):,.0f} MB"
            if pairs <= settings.ours:
                mine = [measured("ours", pairs, settings.dim) for _ in range(settings.rounds)]
                found = f"{min(mine):,.0f} … {max(mine):,.0f} MB measured; {found}"
            if pairs <= min(settings.peer, settings.ours):
                theirs = [measured("peer", pairs, settings.dim) for _ in range(settings.rounds)]
                both = paired(mine, theirs)  # less is better, so the ratio is theirs / ours
                figures = {"against": "lightly", "peer": both["ours"], "ours": both["peer"], "ratio": both["ratio"]}
                cases[f"NT-Xent, {pairs:,} pairs × {settings.dim}"] = figures
            notes[f"NT-Xent, {pairs:,} pairs × {settings.dim}"] = found
    report("memory", "MB", cases, settings, notes)


if __name__ == "__main__":
    main()
