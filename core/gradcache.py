"""Any global batch on any device: exact gradients in chunks.

GradCache: Gao, Zhang, Han, Callan, "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP
2021, arXiv 2101.06983. Three passes: embed every chunk without a graph; differentiate the objective with respect to
all features at once; embed every chunk again with a graph, and send its features' gradient back through it. Memory
holds one chunk's activations, and of the whole batch the features and what the heads make of them; the price is one more
forward pass of the encoder.

The gradient is that of the whole batch, except that an encoder's BatchNorm, a teacher's too, sees a chunk at a time. A
teacher is run once. The objective, and so every head in it, sees the whole batch.
"""
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.distributed import average_gradients
from core.method import Batch, Method


def backward(
    method: Method, chunks: list[Batch], progress: float, autocast: Callable[[], contextlib.AbstractContextManager]
) -> tuple[Tensor, dict]:
    """Loss and scalars of the chunks' joined batch; its gradient, averaged over processes, is added to every `.grad`."""
    states, parts, targets = [], [], []
    with torch.no_grad(), autocast(), _statistics_kept(method.encoder):  # the second pass moves them
        for chunk in chunks:
            states.append(_random_state(chunk))
            parts.append(method.embed(chunk))
            targets.append(method.targets(chunk))
    features = torch.cat(parts).requires_grad_()  # B,V,D
    del parts
    with autocast():
        loss, scalars = method.objective(features, tuple(map(torch.cat, zip(*targets, strict=True))), progress)
    loss.backward()
    after = _random_state(chunks[0])
    for chunk, state, gradient in zip(chunks, states, features.grad.split([len(c.indices) for c in chunks]), strict=True):
        _set_random_state(chunk, state)  # dropout falls as it fell before
        with autocast():
            again = method.embed(chunk)
        again.backward(gradient)
    _set_random_state(chunks[0], after)
    average_gradients([p for p in method.parameters() if p.requires_grad])
    return loss, scalars


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by its batch and leaves its running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


def _random_state(chunk: Batch) -> tuple[Tensor, Tensor | None]:
    device = chunk.views[0].device
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(chunk: Batch, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], chunk.views[0].device)
