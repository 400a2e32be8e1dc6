"""One encoder that holds others: every narrower, shallower or smaller-kernelled encoder of its family is a part of its weights.

A part is an encoder of its own spec whose tensors are the leading channels, and the centers of the kernels, of the whole's:
Cai et al. 2020, "Once-for-all", arXiv 1908.09791; widths as Yu et al. 2019, "Slimmable networks", arXiv 1812.08928. Any
family of timm's convolutional models works whose tensors nest in this way.
"""
import contextlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision import encoders
from vision.encoders import Spec

SKELETONS = 256  # parts that are kept in memory, without weights


class Elastic:
    """Mixed into an encoder's class: within `activated(spec)` it is that part, its features padded to `dim` with zeros.

    Zeros for the missing features mean that whatever comes behind uses the leading columns of its weights.
    """

    active_spec: Spec | None = None
    post_build: Callable[[nn.Module], nn.Module] | None = None  # a change to built encoders: BatchNorm over processes

    def forward(self, x: Tensor) -> Tensor:
        if self.active_spec is None:
            return super().forward(x)
        part = skeleton(self.active_spec, self.post_build).train(self.training)
        state = cut(self, part)
        for name, _ in part.named_buffers():
            state[name] = state[name].clone()  # its statistics are not the whole's
        features = torch.func.functional_call(part, state, x)
        return F.pad(features, (0, self.dim - features.shape[1]))

    @contextlib.contextmanager
    def activated(self, spec: Spec | None) -> Iterator[None]:
        """None: the whole."""
        before, self.active_spec = self.active_spec, spec
        try:
            yield
        finally:
            self.active_spec = before


def elastic(encoder: nn.Module, post_build: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """The same encoder, its class with `Elastic` mixed in. In place."""
    if not isinstance(encoder, Elastic):
        encoder.__class__ = type(f"Elastic{type(encoder).__name__}", (Elastic, type(encoder)), {})
    encoder.post_build = post_build
    return encoder


def extract(encoder: nn.Module, spec: Spec) -> nn.Module:
    """A part as an encoder of its own, with its own copy of the weights and of the whole's statistics."""
    part = encoders.build(spec)
    part.load_state_dict({name: t.detach().clone() for name, t in cut(encoder, part).items()})
    return part


def check_nested(whole: Spec, part: Spec) -> None:
    """Raises ValueError where the part's tensors are no parts of the whole's."""
    cut(skeleton(whole), skeleton(part))


def cut(encoder: nn.Module, part: nn.Module) -> dict[str, Tensor]:
    """The whole's tensors as the part has them: views, through which gradients reach the whole.  Raises ValueError."""
    whole = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    tensors = {}
    for name, tensor in (dict(part.named_parameters()) | dict(part.named_buffers())).items():
        if name not in whole:
            raise ValueError(f"the largest encoder has no {name}: {part.spec.name} {part.spec.arguments} is no part of it")
        tensors[name] = _slice(whole[name], tensor.shape, name)
    return tensors


def _slice(tensor: Tensor, shape: torch.Size, name: str) -> Tensor:
    """Leading channels, centers of kernels."""
    if tensor.shape == shape:
        return tensor
    fits = tensor.ndim == len(shape) and all(small <= large for small, large in zip(shape, tensor.shape, strict=True))
    centered = all((large - small) % 2 == 0 for small, large in zip(shape[2:], tensor.shape[2:], strict=False))
    if not fits or not centered or "qkv" in name:  # heads lie beside one another: their leading part is another thing
        raise ValueError(f"{name}: {tuple(shape)} is no leading part of the largest encoder's {tuple(tensor.shape)}")
    starts = [0 if i < 2 else (large - small) // 2 for i, (small, large) in enumerate(zip(shape, tensor.shape, strict=True))]
    return tensor[tuple(slice(start, start + length) for start, length in zip(starts, shape, strict=True))]


def skeleton(spec: Spec, post_build: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """An encoder without weights of its own, built once."""
    return _skeleton(json.dumps(spec.json, sort_keys=True), post_build)


@lru_cache(SKELETONS)
def _skeleton(spec: str, post_build: Callable[[nn.Module], nn.Module] | None) -> nn.Module:
    with torch.device("meta"):
        part = encoders.build(Spec.of(json.loads(spec)))
    return post_build(part) if post_build else part
