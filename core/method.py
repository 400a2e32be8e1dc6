"""The contract that pretraining methods, distillation, probing and fine-tuning obey, so that one loop serves all."""
import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One process's share of a step."""

    views: list[Tensor]  # V tensors B,C,H,W, normalised: first those that cover the image, then smaller local crops
    indices: Tensor  # B int64: which images, counted in the split they come from
    labels: Tensor | None = None  # B int64
    epoch: int = 0  # which pass over the images


class Method(nn.Module):
    """A loss around an encoder, in three parts that `forward` joins.

    embed: images → features, where the gradient must go back through the encoder. An image's rows stay its own.
    targets: what the loss needs and no gradient reaches: a teacher's outputs, labels. An image's rows stay its own.
    objective: features and targets of the whole batch → loss. Heads belong here, a teacher's too: they see the whole batch.

    A method that defines `objective` (and `targets`) fits any batch into any memory, in chunks with exact gradients
    (core/gradcache.py). One that overrides `forward` alone does not.

    `forward` changes no remembered state, BatchNorm's statistics apart; queue and teacher change in `after_step`, once an
    optimizer step, so that gradient accumulation and resume stay right. Losses are written for the global batch:
    `core.distributed.gather` brings the other processes' rows.
    """

    encoder: nn.Module  # kept afterwards: B,C,H,W → B,D
    views = 2  # of each image in a batch, at least; more are local crops
    joint_views = False  # BatchNorm over all views of a size at once (True) or each view by itself
    per_image = False  # the loss is a mean of each image's own term, so that pieces of a batch add up (BatchNorm apart)
    needs_labels = False
    sync_batchnorm = True  # on more than one process; False for a method that brings its own BatchNorm
    fixed_lr: tuple[str, ...] = ()  # submodules whose learning rate stays at the peak
    lr_scales: dict[str, float] = {}  # submodule or parameter → its share of the learning rate  # noqa: RUF012
    opens: dict[str, float] = {}  # submodule or parameter → progress before which its learning rate is 0  # noqa: RUF012

    def embed(self, batch: Batch) -> Tensor:
        """Features of every view.  → B,V,D"""
        return features_of(self.encoder, batch.views, self.joint_views)

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        """Tensors with a row an image that need no gradient."""
        return ()

    def objective(self, features: Tensor, targets: tuple[Tensor, ...], progress: float) -> tuple[Tensor, dict]:
        """features: B,V,D → the loss of this process's rows (a scalar) and what to log beside it."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        return self.objective(self.embed(batch), self.targets(batch), progress)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        """Fit to the data before the first step, or refuse (ValueError).  Returns notes for the user."""
        return []

    def after_step(self, progress: float) -> None:
        """Change what the method remembers: teacher, queue."""


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


def exact(x: Tensor) -> Tensor:
    """At least float32: softmax over thousands of similarities loses its tail in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def teacher_of(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, for `ema_` to move."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher ← momentum · teacher + (1 − momentum) · student, parameters only.

    Buffers stay the teacher's own: it runs in training mode and keeps its own BatchNorm statistics, as in MoCo's code.
    """
    old, new = list(teacher.parameters()), [p.detach() for p in student.parameters()]
    torch._foreach_lerp_(old, new, 1 - momentum)
