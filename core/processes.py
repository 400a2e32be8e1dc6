"""Processes that work together: joining, collectives, agreeing. Few other files name torch.distributed (tests/test_imports.py).

One process is the ordinary case: every function here is the identity there, and callers do not branch.
"""
import contextlib
import ctypes
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core import signals
from core.machine import cores
from core.world import environment, slurm_rendezvous


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def threads(local_size: int) -> int:
    """Of a process: its share of the cores, or fewer where OMP_NUM_THREADS says so; torchrun's default of 1 is ignored.

    Two processes that both take every core wait for each other's threads.
    """
    share = max(1, cores() // local_size)
    limited = "OMP_NUM_THREADS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    return min(share, torch.get_num_threads()) if limited else share  # torch has read it when it was loaded


@contextlib.contextmanager
def session(device: str = "auto"):
    """Join the other processes, if there are any, and leave in order.  Yields a `World`."""
    r, size, local_rank, local_size = environment() or (0, 1, 0, 1)
    chosen = pick_device(device, local_rank)
    if chosen.type == "cpu":
        torch.set_num_threads(threads(local_size))
        torch.set_flush_denormal(True)  # numbers below 1e-38 are zero: computing with them takes a hundred times as long
        _keep_memory()
    else:
        torch.cuda.set_device(chosen)
    if size > 1:
        if not os.environ.get("MASTER_ADDR"):
            os.environ["MASTER_ADDR"], port = slurm_rendezvous()
            os.environ.setdefault("MASTER_PORT", str(port))
        signals.watch()
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", rank=r, world_size=size, timeout=timedelta(minutes=30)
        )
    try:
        yield World(r, size, local_rank, local_size, chosen)
        if size > 1:
            dist.barrier()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def pick_device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise ValueError(f"device={name}: there are auto, cpu, cuda and cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name}: no CUDA device is visible; use device=cpu")
    if name == "cuda":
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    return torch.device(name)


def _keep_memory() -> None:
    """Tell glibc to keep freed blocks: to page-fault activations in anew costs 10–20 % of a CPU step."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


# ---- collectives --------------------------------------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # every process's loss depends on our rows
        return gradient.chunk(world_size())[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, by rank.  B,… → W*B,…

    Keeps gradients: each process gets what all losses owe its rows.
    """
    return _Gather.apply(x) if world_size() > 1 else x


def total(x: Tensor) -> Tensor:
    """Sum over processes, keeping gradients."""
    return _Sum.apply(x) if world_size() > 1 else x


def mean(x: Tensor) -> Tensor:
    """Mean over processes, for reporting (no gradient)."""
    return total(x.detach()) / world_size()


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """What DistributedDataParallel does, in one go, for a step that is not one forward and one backward.

    Of a sharded method (core/shard.py) every backward pass has done it.
    """
    if world_size() == 1 or any(map(is_rows, parameters)):
        return
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    gradients = [p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    parts = (flat / world_size()).split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def local_rows(x: Tensor) -> Tensor:
    """This process's share of rows that all processes hold.  W*B,… → B,…"""
    return x.chunk(world_size())[rank()]


def gather_objects(value) -> list:
    """Every process's Python value, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value):
    """The main process's Python value, everywhere."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def wrap(module: nn.Module) -> nn.Module:
    """Average gradients over processes. Buffers stay as they are: queues and statistics are each method's to keep."""
    if world_size() == 1 or is_sharded(module):
        return module
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated")  # its heir is in no torch before 2.15
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


@torch.no_grad()
def replicate(module: nn.Module) -> nn.Module:
    """Give every process the main one's parameters, for a step that `average_gradients` ends."""
    for p in module.parameters() if world_size() > 1 and not is_sharded(module) else ():
        dist.broadcast(p.detach(), 0)
    return module


def without_averaging(model: nn.Module) -> contextlib.AbstractContextManager:
    """Around a piece of a step that is not its last: gradients add up on each process.

    A sharded method averages those of each piece, as whole gradients would take the memory that it saves.
    """
    return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()  # pyrefly: ignore


def is_sharded(module: nn.Module) -> bool:
    """Is it spread over processes (core/shard.py)?"""
    return hasattr(module, "unshard")


def is_rows(x: Tensor) -> bool:
    """Is it spread over processes, as parameters of a sharded method are?"""
    return hasattr(x, "full_tensor")


def full(x: Tensor) -> Tensor:
    """The whole of a tensor that is spread over processes; another as it is.  Collective in the first case"""
    return x.full_tensor() if is_rows(x) else x  # pyrefly: ignore


class AnyProcess:
    """A question all processes must answer alike at the same step ("stop?"), asked without waiting.

    Each step posts this process's answer and reads those of one step earlier, over a CPU group of its own.
    """

    def __init__(self):
        self.group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self.pending = None

    def any_rank(self, answer: bool) -> bool:
        if self.group is None:
            return answer
        yes = False
        if self.pending is not None:
            work, votes = self.pending
            work.wait()
            yes = bool(votes.item())
        votes = torch.tensor(int(answer))
        self.pending = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.group, async_op=True), votes
        return yes

    def last(self, answer: bool) -> bool:
        """The same after the last step: it waits for the answers of now."""
        yes = self.any_rank(answer)
        if self.pending is not None:
            work, votes = self.pending
            work.wait()
            yes, self.pending = yes or bool(votes.item()), None
        return yes
