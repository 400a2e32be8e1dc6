"""Bytes of memory that training takes in one process, predicted from shapes: nothing is computed, no weight is made.

Counted are weights, gradients, the optimizer's state, what `shard` brings together for a while, and what the encoder's forward
pass keeps for its backward pass. Not counted: activations of heads, the batch, what libraries take and allocators waste.
"""
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from core.recompute import all_blocks

Found = TypeVar("Found")
STATES = {"adamw": 2, "lamb": 2, "lars": 1, "sgd": 1}  # numbers that an optimizer keeps of a parameter


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process, the one that holds most."""

    parameters: int  # that are trained
    frozen: int  # that are not: a teacher's
    gradients: int
    optimizer: int
    gathered: int  # whole weights and gradients that are there for a while where all else is rows

    @property
    def states(self) -> int:
        """What stays from step to step."""
        return self.parameters + self.frozen + self.gradients + self.optimizer


def predict(method: nn.Module, optimizer: str, processes: int, shard: bool = False) -> Footprint:
    """Of a method before it is sharded; its weights may be fake or on `meta`.  optimizer: as optim.name

    With `shard` a process holds of each tensor the rows of torch.chunk, padded. Whole are, at most at once: what lies in no
    block, with its gradient; weights of two blocks, one in use and the next; a block's gradient twice, as it is and as it is
    sent.
    """
    divided = shard and processes > 1
    trained = [p for p in method.parameters() if p.requires_grad]
    blocks = all_blocks(method)
    inside = {id(p) for block in blocks for p in block.parameters()}

    def held(parameters: Iterable[Tensor]) -> int:
        return sum(_rows(p, processes) if divided else p.nbytes for p in parameters)

    weights = held(trained)
    outside = [p for p in method.parameters() if id(p) not in inside]
    largest = max((sum(p.nbytes for p in block.parameters()) for block in blocks), default=0)
    kept = sum(p.nbytes for p in outside) + sum(p.nbytes for p in outside if p.requires_grad) + 4 * largest
    frozen = held(p for p in method.parameters() if not p.requires_grad)
    return Footprint(weights, frozen, weights, STATES[optimizer] * weights, kept if divided else 0)


def _rows(p: Tensor, processes: int) -> int:
    return -(-len(p) // processes) * p.nbytes // len(p)


def kept_by_forward(encoder: nn.Module, images: Iterable[Tensor]) -> int:
    """Bytes that the forward passes of some batches keep for the backward pass, weights apart."""
    weights = {p.untyped_storage()._cdata for p in itertools.chain(encoder.parameters(), encoder.buffers())}
    found: dict[int, torch.UntypedStorage] = {}  # by identity; held, so that none takes another's place

    def pack(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage())._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = [encoder(x) for x in images]
    del outputs
    return sum(storage.nbytes() for storage in found.values())


def by_shapes(make: Callable[[], nn.Module], use: Callable[[nn.Module], Found]) -> Found:
    """use(make()), where tensors of both have shapes on a CPU and no content: it takes no memory and next to no time."""
    with torch.device("meta"):
        module = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        return use(module.to_empty(device="cpu"))
