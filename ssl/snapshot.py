"""A teacher that stands still: a copy of another one, taken anew at listed shares of the run."""
from collections.abc import Sequence

import torch
from torch import nn

from core.method import ema_copy


class Snapshot(nn.Module):
    """A copy in evaluation mode that no gradient reaches. Its state says how often it was taken, so that a run resumes with it.

    module: what is copied, as it is first; shares: progress from which a copy is due, rising
    """

    taken: torch.Tensor

    def __init__(self, module: nn.Module, shares: Sequence[float]):
        super().__init__()
        self.module, self.shares = ema_copy(module).eval(), tuple(shares)
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "Snapshot":
        return super().train(False)

    @property
    def active(self) -> bool:
        """Has one been taken?"""
        return bool(self.taken)

    @torch.no_grad()
    def update(self, module: nn.Module, progress: float) -> None:
        """Take the copy that is due at this progress, if it was not taken before."""
        due = sum(progress >= share for share in self.shares)
        if due > int(self.taken):
            self.module.load_state_dict(module.state_dict())
            self.taken.fill_(due)
