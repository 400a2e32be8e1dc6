"""Any global batch on any device: exact gradients in chunks.

GradCache: Gao, Zhang, Han, Callan, "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP
2021, arXiv 2101.06983. Three passes: embed every chunk without a graph; differentiate the objective with respect to
all features at once; embed every chunk again with a graph, and send its features' gradient back through it. Memory
holds one chunk's activations, and of the whole batch the features and what the heads make of them; the price is one more
forward pass of the encoder.

The gradient is that of the whole batch, except that an encoder's BatchNorm, a teacher's too, sees a chunk at a time. A
teacher is run once. The objective, and so every head in it, sees the whole batch. Where `embed` returns several tensors,
each is joined over the chunks and sends its own gradient back.
"""
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.dropout import drawn_for
from core.method import Batch, Method, Output, joined
from core.processes import average_gradients

Autocast = Callable[[], contextlib.AbstractContextManager]


def backward(method: Method, batch: Batch, size: int, progress: float, autocast: Autocast) -> Output:
    """The method's output for the batch; its gradient, averaged over processes, is added to every `.grad`.

    size: images of a chunk, the last may be smaller.
    """
    chunks, states, parts, targets = batch.split(size), [], [], []
    with torch.no_grad(), autocast(), _statistics_kept(method.encoder):  # the second pass moves them
        for chunk in chunks:
            states.append(_random_state(chunk))
            with drawn_for(chunk):
                parts.append(method.embed(chunk))
            with drawn_for(chunk):
                targets.append(method.targets(chunk))
    features = joined(parts)
    leaves = [f.requires_grad_() for f in _entries(features)]  # B,V,D, or several of other shapes
    del parts
    with autocast(), drawn_for(batch):
        output = method.objective(features, joined(targets), progress)
    output.loss.backward()
    after = _random_state(batch)
    gradients = [(torch.zeros_like(f) if f.grad is None else f.grad).split(size) for f in leaves]
    for chunk, state, gradient in zip(chunks, states, zip(*gradients, strict=True), strict=True):
        _set_random_state(chunk, state)  # what draws from torch's generator draws as before
        with autocast(), drawn_for(chunk):
            again = method.embed(chunk)
        with_graph = [(f, g) for f, g in zip(_entries(again), gradient, strict=True) if f.requires_grad]
        if with_graph:  # a frozen encoder has none
            torch.autograd.backward([f for f, _ in with_graph], [g for _, g in with_graph])
    _set_random_state(batch, after)
    average_gradients([p for p in method.parameters() if p.requires_grad])
    return output


def _entries(features: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (features,) if isinstance(features, Tensor) else features


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorm normalizes by its batch and leaves its running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


def _random_state(batch: Batch) -> tuple[Tensor, Tensor | None]:
    device = batch.views[0].device
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(batch: Batch, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], batch.views[0].device)
