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
from dataclasses import dataclass

import torch
from torch import Tensor

from core.method import Batch, Method, Output

WARM_UP = 3  # passes before a recording, in which libraries choose their kernels
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


@dataclass(frozen=True)
class _Recorded:
    batch: Batch  # its tensors are those that the graph reads
    replay: Callable[[], None]
    outputs: list[Output]  # one, whose tensors the graph writes


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


class Step:
    """Forward and backward of a method, recorded once for each shape of the views.

    record: how; tests give one that replays by calling.
    """

    def __init__(self, method: Method, autocast: Callable, record: Recorder = record):
        self.method, self.autocast, self.record = method, autocast, record
        self.recorded: dict[tuple, _Recorded] = {}

    def __call__(self, batch: Batch, progress: float) -> Output:
        """The output of this batch, its gradients added to the parameters'. The next call overwrites what is staged."""
        shape = tuple((view.shape, view.dtype) for view in _tensors(batch))
        if shape not in self.recorded:
            self.recorded[shape] = self._begin(batch, progress)
        step = self.recorded[shape]
        torch._foreach_copy_(_tensors(step.batch), _tensors(batch))
        step.replay()
        (output,) = step.outputs
        return dataclasses.replace(output, loss=output.loss.clone())

    def _begin(self, batch: Batch, progress: float) -> _Recorded:
        own = dataclasses.replace(
            batch, views=[view.clone() for view in batch.views], labels=None if batch.labels is None else batch.labels.clone(),
        )
        found: list[Output] = []

        def work() -> None:
            with self.autocast(cache_enabled=False):
                output = self.method(own, progress)
            output.loss.backward()
            found[:] = [dataclasses.replace(output, loss=output.loss.detach())]

        kept = [b.clone() for b in self.method.buffers()]
        replay = self.record(work)
        for p in self.method.parameters():
            if p.grad is not None:  # else the loss does not reach it
                p.grad.zero_()
        for buffer, before in zip(self.method.buffers(), kept, strict=True):
            buffer.copy_(before)
        return _Recorded(own, replay, found)


def _tensors(batch: Batch) -> list[Tensor]:
    return [*batch.views, *([] if batch.labels is None else [batch.labels])]


def refusal(method: Method, device: torch.device) -> str | None:
    """Why this method's step cannot be recorded, and the way out; None where it can."""
    from core.dropout import is_drawing

    name = type(method).__name__
    if device.type != "cuda":
        return f"records a step on a GPU, and this run is on {device.type}; leave it out"
    if not method.traits.static_step:
        return f"{name} may do something else at each step; leave it out"
    if is_drawing(method.encoder):
        return "dropout and drop path draw anew at each step; set them to 0, or leave graph out"
    return None
