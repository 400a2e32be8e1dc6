"""A training step as a CUDA graph: recorded once, then launched as one, where launching kernels takes longer than running them.

What is recorded must be the same at every step: shapes, the operations and every number of Python's. So a method says that its
loss does not depend on progress (`Traits.static_step`; tests/ssl/test_graph.py compares the operations), and what draws from a
batch's step (dropout, masks) is refused. The optimizer, clipping and what a method remembers run as ever.

Inputs are copied into the tensors of the first step and gradients are added to where they lie, so that the loop sets them to
zero and not to None. What the passes before the recording did to gradients and BatchNorm's statistics is undone: the weights
are those of the ordinary loop, up to the kernels that cuDNN chooses. Not measured on a GPU yet.
"""
import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from core.dropout import is_drawing
from core.method import Batch, Method, Output

WARM_UP = 3  # passes before a recording, in which libraries choose their kernels
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
Result = TypeVar("Result")


def record(work: Callable[[], None]) -> Callable[[], None]:
    """What the work launches on the current GPU → a function that launches it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


class Recordings(Generic[Result]):
    """What was recorded, one for each shape of the inputs.  record: how; tests give one that replays by calling."""

    def __init__(self, record: Recorder = record):
        self.record = record
        self.known: dict[tuple, tuple[list[Tensor], Callable[[], None], list[Result]]] = {}

    def __call__(self, given: list[Tensor], work: Callable[[list[Tensor]], Result]) -> Result:
        """work(given), recorded on copies the first time. The next call overwrites the tensors of the result."""
        shape = tuple((x.shape, x.dtype) for x in given)
        if shape not in self.known:
            self.known[shape] = self._begin([x.clone() for x in given], work)
        own, replay, found = self.known[shape]
        torch._foreach_copy_(own, given)
        replay()
        return found[0]

    def _begin(self, own: list[Tensor], work: Callable[[list[Tensor]], Result]):
        found: list[Result] = []

        def once() -> None:
            found[:] = [work(own)]

        return own, self.record(once), found


class Step:
    """Forward and backward of a method, recorded once for each shape of the views."""

    def __init__(self, method: Method, autocast: Callable, record: Recorder = record):
        self.method, self.autocast, self.record = method, autocast, record
        self.recordings = Recordings[Output](self._undone)

    def __call__(self, batch: Batch, progress: float) -> Output:
        """The output of this batch, its gradients added to the parameters'. The next call overwrites what is staged."""
        count = len(batch.views)

        def work(own: list[Tensor]) -> Output:
            mine = dataclasses.replace(batch, views=own[:count], labels=own[count] if len(own) > count else None)
            with self.autocast(cache_enabled=False):
                output = self.method(mine, progress)
            output.loss.backward()
            return dataclasses.replace(output, loss=output.loss.detach())

        output = self.recordings([*batch.views, *([] if batch.labels is None else [batch.labels])], work)
        return dataclasses.replace(output, loss=output.loss.clone())

    def _undone(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record, and leave gradients zero and buffers as they were before."""
        kept = [b.clone() for b in self.method.buffers()]
        replay = self.record(work)
        for p in self.method.parameters():
            if p.grad is not None:  # else the loss does not reach it
                p.grad.zero_()
        for buffer, before in zip(self.method.buffers(), kept, strict=True):
            buffer.copy_(before)
        return replay


def refusal(method: Method, device: torch.device) -> str | None:
    """Why this method's step cannot be recorded, and the way out; None where it can."""
    name = type(method).__name__
    if device.type != "cuda":
        return f"records a step on a GPU, and this run is on {device.type}; leave it out"
    if not method.traits.static_step:
        return f"{name} may do something else at each step; leave it out"
    if is_drawing(method.encoder):
        return "dropout and drop path draw anew at each step; set them to 0, or leave graph out"
    return None
