"""NT-Xent forward and backward: lightly.loss.NTXentLoss against ours, time and extra memory.

    uv run python -m experiments.speed.losses --keep
"""
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from core.distributed import session
from experiments.speed.side_by_side import arguments, compare, report

TEMPERATURE = 0.2


def contestants(pairs: int, dim: int, device: torch.device):
    from lightly.loss import NTXentLoss

    from ssl.losses import nt_xent

    torch.manual_seed(0)
    first, second = (torch.randn(pairs, dim, device=device, requires_grad=True) for _ in range(2))
    theirs = NTXentLoss(temperature=TEMPERATURE)

    def run(loss) -> int:
        first.grad = second.grad = None
        loss(first, second).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1

    return {"peer": lambda: run(theirs), "ours": lambda: run(lambda a, b: nt_xent(a, b, TEMPERATURE))}, (first, second)


def extra_memory(name: str, pairs: int, dim: int) -> float:
    """MB that one call adds to the peak of a fresh process, over that of a small call."""
    code = f"from experiments.speed.losses import peak; print(peak({name!r}, {pairs}, {dim}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def peak(name: str, pairs: int, dim: int) -> float:
    with session("cpu") as world:
        contestants(64, dim, world.device)[0][name]()
        work, _ = contestants(pairs, dim, world.device)
        before = high_water()
        work[name]()
        return (high_water() - before) / 1024


def high_water() -> int:
    """This process's peak memory in kB (VmHWM; ru_maxrss would start at the parent's size)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    settings = arguments(__doc__.splitlines()[0], pairs=(8192, "pairs of embeddings"), dim=(128, "their length"))
    with session(settings.device) as world:
        work, (first, second) = contestants(settings.pairs, settings.dim, world.device)
        cases = {f"{settings.pairs} pairs, {settings.dim} dimensions": compare(work["peer"], work["ours"], settings.rounds)}
        gradients = []
        for name in ("peer", "ours"):
            work[name]()
            gradients.append(torch.cat([first.grad, second.grad]))
        difference = float(F.mse_loss(*gradients).sqrt() / gradients[0].square().mean().sqrt())
    notes = {"relative difference of the gradients": f"{difference:.1e}"}
    if settings.device == "cpu":
        for name in ("peer", "ours"):
            notes[f"extra memory, {name}, MB"] = round(extra_memory(name, settings.pairs, settings.dim), 1)
    report("losses", "calls/s", cases, settings, notes)


if __name__ == "__main__":
    main()
