"""The contract that pretraining methods, distillation, probing and fine-tuning obey, so that one loop serves all."""
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One process's share of a step."""

    views: list[Tensor]  # V tensors B,C,H,W, normalised
    indices: Tensor  # B int64: which images, counted in the split they come from
    labels: Tensor | None = None  # B int64


class Method(nn.Module):
    """A loss around an encoder.

    `forward` changes no remembered state, BatchNorm's statistics apart; queue and teacher change in `after_step`, once an
    optimizer step, so that gradient accumulation and resume stay right. Losses are written for the global batch:
    `core.distributed.gather` brings the other processes' rows.
    """

    encoder: nn.Module  # kept afterwards: B,C,H,W → B,D
    views = 2  # of each image in a batch
    sync_batchnorm = True  # on more than one process; False for a method that brings its own BatchNorm

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of this process's rows (a scalar) and what to log beside it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def prepare(self, images: int, batch_size: int) -> list[str]:
        """Fit to the data before the first step, or refuse (ValueError).  Returns notes for the user."""
        return []

    def after_step(self, progress: float) -> None:
        """Change what the method remembers: teacher, queue."""


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
