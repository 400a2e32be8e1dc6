"""Dropout and drop path drawn for each image: a function of (seed, step, image, layer), of no generator's state.

So a run does not depend on the number of processes, pieces or chunks, and resumes with the same draws. Where the rows of an
input are not a multiple of the batch's images, or no batch is at hand, torch's generator draws as ever.
"""
import contextlib
import contextvars
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import counter_rng

STREAMS = 0x80000000  # of the counter: above those of views, below those of orders and splits
CALLS = 1 << 12  # of a layer in one pass over the batch, at most: views, and reuse


class _Batch(Protocol):
    @property
    def seed(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def indices(self) -> Tensor: ...


Position = tuple[_Batch, Counter] | None  # where the draws stand: the batch, and how often each layer was called
_current: contextvars.ContextVar[Position] = contextvars.ContextVar("batch", default=None)


@contextlib.contextmanager
def drawn_for(batch: _Batch) -> Iterator[None]:
    """Inside, dropout layers draw for the images of this batch, from its seed and step. Layers count their calls anew."""
    with drawn_from((batch, Counter())):
        yield


def position() -> Position:
    """Where the draws stand now, for `drawn_from` to draw the same again."""
    return None if (known := _current.get()) is None else (known[0], known[1].copy())


@contextlib.contextmanager
def drawn_from(position: Position) -> Iterator[None]:
    """Inside, dropout layers draw what they drew from this position on."""
    token = _current.set(position and (position[0], position[1].copy()))
    try:
        yield
    finally:
        _current.reset(token)


class _PerImage(nn.Module):
    """A layer whose draws belong to images.  number: the layer's own among those of the method."""

    def __init__(self, p: float, number: int):
        super().__init__()
        self.p, self.number = p, number

    def uniform(self, x: Tensor, count: int) -> Tensor | None:
        """`count` numbers in [0, 1) for each row; None where rows belong to no image.  x: V·B,… → V·B,count

        Rows are views one after the other, each of the whole batch, as `features_of` joins them.
        """
        known = _current.get()
        if known is None or not len(known[0].indices) or len(x) % len(known[0].indices):
            return None
        batch, calls = known
        indices, drawn = batch.indices.to(x.device), []
        for _ in range(len(x) // len(indices)):
            stream = STREAMS + self.number * CALLS + calls[self.number] % CALLS
            drawn.append(counter_rng.uniform(batch.seed, batch.step, indices, stream, count))
            calls[self.number] += 1
        return torch.cat(drawn)

    def extra_repr(self) -> str:
        return f"p={self.p}, number={self.number}"


class Dropout(_PerImage):
    """As nn.Dropout; `whole` maps (nn.Dropout2d) are dropped with their channel."""

    def __init__(self, p: float, number: int, whole: bool = False):
        super().__init__(p, number)
        self.whole = whole

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        shape = x.shape[:2] if self.whole else x.shape
        u = self.uniform(x, shape[1:].numel())
        if u is None:
            return F.dropout2d(x, self.p) if self.whole else F.dropout(x, self.p)
        keep = (u >= self.p).view(shape).view(*shape, *[1] * (x.ndim - len(shape)))
        return x * keep / (1 - self.p) if self.p < 1 else torch.zeros_like(x)


class DropPath(_PerImage):
    """Stochastic depth: Huang, Sun, Liu, Sedra, Weinberger 2016, arXiv 1603.09382; a row is kept or dropped as a whole."""

    def __init__(self, p: float, number: int, scale: bool = True):
        super().__init__(p, number)
        self.drop_prob, self.scale = p, scale

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        u = self.uniform(x, 1)
        u = torch.rand(len(x), 1, device=x.device) if u is None else u
        keep = (u >= self.p).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return x * keep / (1 - self.p) if self.scale and self.p < 1 else x * keep


def is_drawing(module: nn.Module) -> bool:
    """Is there a layer inside that drops anything?"""
    drops = (_PerImage, nn.modules.dropout._DropoutNd)
    return any(m.p > 0 for m in module.modules() if isinstance(m, drops))


def per_image(method: nn.Module) -> nn.Module:
    """Every dropout and drop path layer inside draws for each image. In place; state dicts keep their keys.

    nn.Dropout and nn.Dropout1d to 3d with p > 0, and timm's DropPath. A layer's number is its place in the method. Attention
    that drops inside a fused kernel, and layers of other classes, keep torch's generator.
    """
    count = 0
    for parent in list(method.modules()):
        for name, child in list(parent.named_children()):
            new = _of(child, count)
            if new is not None:
                setattr(parent, name, new.train(child.training))
                count += 1
    return method


def _of(layer: nn.Module, number: int) -> _PerImage | None:
    if isinstance(layer, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and layer.p:
        return Dropout(layer.p, number, whole=True)
    if type(layer) is nn.Dropout and layer.p:
        return Dropout(layer.p, number)
    if type(layer).__name__ == "DropPath" and getattr(layer, "drop_prob", 0):  # timm's, which core need not import
        return DropPath(layer.drop_prob, number, layer.scale_by_keep)  # pyrefly: ignore
    return None
