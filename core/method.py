"""The contract that pretraining methods, distillation, probing and fine-tuning obey, so that one loop serves all."""
import copy
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from core import dropout

Features = Tensor | tuple[Tensor, ...]
Joinable = TypeVar("Joinable")


@dataclass(frozen=True)
class Batch:
    """One process's share of a step. With (seed, epoch, indices) any random number of an image can be computed again."""

    views: list[Tensor]  # V tensors B,C,H,W, normalized: first those that cover the image, then smaller local crops
    indices: Tensor  # B int64: which images, counted in the split they come from
    labels: Tensor | None = None  # B int64, on the views' device
    epoch: int = 0  # which pass over the images
    step: int = 0  # of the run
    seed: int = 0  # of the run
    boxes: Sequence[Tensor] = ()  # a view each, B,5: top, left, height, width as shares of the image, flipped (0 or 1)
    clean: Sequence[Tensor] = ()  # B,C,S,S each: global crops without distortion, where a method asks for them

    def split(self, size: int) -> "list[Batch]":
        """The images in order, `size` at a time; the last part may be smaller."""
        rows = [slice(start, start + size) for start in range(0, len(self.indices), size)]
        return [
            dataclasses.replace(
                self,
                views=[view[r] for view in self.views],
                indices=self.indices[r],
                labels=None if self.labels is None else self.labels[r],
                boxes=[box[r] for box in self.boxes],
                clean=[view[r] for view in self.clean],
            )
            for r in rows
        ]


@dataclass(frozen=True)
class Record:
    """Base of what `Method.targets` returns and of what is staged: tensors by name, or tuples of tensors, a row an image.

    A method derives its own: `@dataclass(frozen=True) class Targets(Record): keys: Tensor  # B,P`. None is allowed.
    """


@dataclass(frozen=True)
class Output:
    """What an objective returns."""

    loss: Tensor  # scalar, of this process's rows
    scalars: Mapping[str, Tensor | float] = field(default_factory=dict)  # to log beside it
    staged: Any = None  # a Record of what `after_step` is to remember


@dataclass(frozen=True)
class Traits:
    """What the tools must know of a method before it runs."""

    views: int = 2  # of each image in a batch, at least; more are local crops
    joint_views: bool = False  # BatchNorm over all views of a size at once (True) or each view by itself
    per_image: bool = False  # the loss is a mean of each image's own term, so that pieces of a batch add up (BatchNorm apart)
    needs_labels: bool = False
    local_crops: bool = True  # False: smaller crops beside the views have no place in the loss
    predicts_pixels: bool = False  # one feature for all images does not solve the task, so features that lie close are no alarm
    static_step: bool = False  # forward and backward do the same at every step, whatever the progress (core/graph.py)
    on_tokens: bool = False  # takes the encoder apart (vision/tokens.py): torch.compile of the whole has no effect
    resizable: bool = False  # … and its masks fit views that become larger within a run
    clean_from: float = 1.0  # progress from which it takes `Batch.clean`; 1: never
    pooling: str | None = None  # the encoder's features: "token" (class token) or "mean" (of patch tokens); None: as built
    sync_batchnorm: bool = True  # on more than one process; False for a method that brings its own BatchNorm
    constant_lr: tuple[str, ...] = ()  # submodules whose learning rate stays at the peak
    lr_scale: Mapping[str, float] = field(default_factory=dict)  # submodule or parameter → its share of the learning rate
    unfreeze_at: Mapping[str, float] = field(default_factory=dict)  # … → progress before which its learning rate is 0
    frozen_until: Mapping[str, float] = field(default_factory=dict)  # … → progress before which it is not trained at all
    ramp: Mapping[str, float] = field(default_factory=dict)  # … → share of the run over which its rate rises after that


class Method(nn.Module):
    """A loss around an encoder, in three parts that `forward` joins, and what it remembers.

    embed: images → features, with gradient: everything that leaves an image its own rows, a decoder or predictor included.
    targets: what the loss needs and no gradient reaches: a teacher's outputs, labels. An image's rows stay its own.
    objective: features and targets of the whole batch → `Output`. Whatever mixes images belongs here, heads with BatchNorm
        too: they see the whole batch. Losses are written for the global batch: `core.processes.gather` brings the other
        processes' rows.
    after_step: the only place where what is remembered (teacher, queue, center) changes, once an optimizer step. It is given
        what the objective staged. `forward` changes nothing, BatchNorm's statistics apart, so that gradient accumulation and
        resume stay right.

    A method that defines `objective` (and `targets`) fits any batch into any memory, in chunks with exact gradients
    (core/gradcache.py). One that overrides `forward` alone does not.
    """

    encoder: nn.Module  # kept afterwards: B,C,H,W → B,D
    traits = Traits()
    logs = True  # is this step's row written? Else an objective may leave out figures that are there to log alone

    def embed(self, batch: Batch) -> Features:
        """Features of every view, B,V,D, or a tuple of tensors whose first dimension is B."""
        return features_of(self.encoder, batch.views, self.traits.joint_views)

    def targets(self, batch: Batch) -> Any:
        """A `Record` of tensors with a row an image that need no gradient, or None."""
        return None

    def objective(self, features: Any, targets: Any, progress: float) -> Output:
        """features: as `embed` returns them; targets: as `targets` does; both of the whole batch.  progress: 0 … 1"""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")

    def forward(self, batch: Batch, progress: float) -> Output:
        with dropout.drawn_for(batch):
            features = self.embed(batch)
        with dropout.drawn_for(batch):
            targets = self.targets(batch)
        with dropout.drawn_for(batch):
            return self.objective(features, targets, progress)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        """Fit to the data before the first step, or refuse (ValueError).  Returns notes for the user."""
        return []

    def after_step(self, staged: Any, progress: float) -> None:
        """Change what the method remembers: teacher, queue.  staged: what the objective staged, of all pieces of the step."""


def joined(parts: Sequence[Joinable]) -> Joinable:
    """Records, tensors or tuples of parts of a batch → those of the whole: rows in order. Parts that are None give None."""
    first: Any = parts[0]
    if first is None or len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(parts)  # pyrefly: ignore
    if isinstance(first, tuple):
        return tuple(joined(entry) for entry in zip(*parts, strict=True))  # pyrefly: ignore
    names = [f.name for f in dataclasses.fields(first)]
    return type(first)(**{name: joined([getattr(part, name) for part in parts]) for name in names})


def features_of(module: nn.Module, views: list[Tensor], joint: bool = False) -> Tensor:
    """Every view through a module.  V tensors B,C,H,W → B,V,D

    joint: views of one size as one batch, so that BatchNorm sees them together; else view by view.
    """
    if not joint:
        return torch.stack([module(view) for view in views], dim=1)
    parts, B = [], len(views[0])
    for _, same in itertools.groupby(views, key=lambda view: view.shape):
        parts.append(module(torch.cat(list(same))).unflatten(0, (-1, B)))
    return torch.cat(parts).transpose(0, 1)  # V,B,D → B,V,D


def each_view(head: nn.Module, features: Tensor, joint: bool = False) -> Tensor:
    """A head on every view's features, by one of the same two ways.  B,V,D → B,V,P"""
    if joint:
        return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return torch.stack([head(view) for view in features.unbind(1)], dim=1)


def check_positive(**constants: float) -> None:
    """Raises ValueError naming the method's setting that is not."""
    for name, value in constants.items():
        if not value > 0:
            raise ValueError(f"method.{name}={value}: must be more than 0")


def check_natural(**constants: float) -> None:
    """Raises ValueError naming the method's setting that is negative or infinite."""
    for name, value in constants.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"method.{name}={value}: must be 0 or more")


def check_share(**constants: float) -> None:
    """Raises ValueError naming the method's setting that is no share."""
    for name, value in constants.items():
        if not 0 <= value <= 1:
            raise ValueError(f"method.{name}={value}: must be from 0 to 1")


def at_least_fp32(x: Tensor) -> Tensor:
    """float32 or wider: softmax over thousands of similarities loses its tail in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def ema_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, for `ema_update_` to move."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update_(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher ← momentum · teacher + (1 − momentum) · student, parameters only.

    Buffers stay the teacher's own: it runs in training mode and keeps its own BatchNorm statistics, as in MoCo's code.
    """
    old, new = list(teacher.parameters()), [p.detach() for p in student.parameters()]
    torch._foreach_lerp_(old, new, 1 - momentum)
