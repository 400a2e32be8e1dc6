"""Activation checkpointing: a block keeps its input alone, and the backward pass computes the rest again.

Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174. The gradient is the same:
dropout draws again what it drew (core/dropout.py), torch's generator is put back, and BatchNorm's running statistics move once.
"""
import contextlib
import re
from collections.abc import Iterable, Iterator
from functools import cache, partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from core import dropout


class _Recomputed:
    """Mixed into a block's class."""

    def forward(self, *arguments, **named):
        run = super().forward  # pyrefly: ignore
        if not (self.training and torch.is_grad_enabled()):  # pyrefly: ignore
            return run(*arguments, **named)
        return checkpoint(run, *arguments, use_reentrant=False, context_fn=partial(_passes, self), **named)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks that a module lists as `blocks`, at any depth, or else in `layer1` to `layer4`; none if it has neither."""
    lists = [m.blocks for m in module.modules() if isinstance(getattr(m, "blocks", None), (nn.Sequential, nn.ModuleList))]
    lists = lists or [m for name, m in module.named_children() if re.fullmatch(r"layer\d", name)]
    return [block for some in lists for block in _flat(some)]


def all_blocks(method: nn.Module) -> set[nn.Module]:
    """Those of every encoder, decoder and teacher inside."""
    return {block for module in method.modules() for block in blocks_of(module)}


def _flat(modules: nn.Module) -> list[nn.Module]:
    """Of lists in lists."""
    if not isinstance(modules, (nn.Sequential, nn.ModuleList)):
        return [modules]
    return [block for child in modules for block in _flat(child)]


def recompute_(blocks: Iterable[nn.Module]) -> None:
    """Let each of these blocks compute its activations again. In place, in training with a gradient alone; state dicts keep
    their keys.
    """
    for block in blocks:
        if not isinstance(block, _Recomputed):
            block.__class__ = _kind(type(block))


@cache
def _kind(kind: type) -> type:
    return type(kind.__name__, (_Recomputed, kind), {"__module__": kind.__module__})


def _passes(block: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """What surrounds the forward pass, which is now, and what surrounds its repetition."""
    return contextlib.nullcontext(), _again(block, dropout.position())


@contextlib.contextmanager
def _again(block: nn.Module, position: dropout.Position) -> Iterator[None]:
    buffers = [b for m in block.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]
    before = [b.clone() for b in buffers]
    try:
        with dropout.drawn_from(position):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
