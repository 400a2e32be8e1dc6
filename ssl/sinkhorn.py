"""Sinkhorn-Knopp over the global batch in the log domain, and the cross-entropy with what it gives, tile by tile.

Cuturi 2013 (arXiv 1306.0895) as SwAV (arXiv 2006.09882, §3.1) and DINOv2 (arXiv 2304.07193, §4) use it: soft assignments of
N rows to K prototypes that use all prototypes alike. After the last step, which normalizes rows, they are a softmax of the
scores with one number added for each prototype: K numbers are enough, and no process holds a matrix of rows and prototypes
beyond a tile.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from core.method import at_least_fp32
from core.processes import gather
from ssl.losses import log_sum_exp, row_tiles


@dataclass(frozen=True)
class Assignments:
    """Soft assignments p_nk = softmax_k(row_n·prototype_k / T + offset_k), without gradient."""

    rows: Tensor  # N,P
    prototypes: Tensor  # K,P
    offsets: Tensor  # K
    temperature: float

    def of(self, rows: slice) -> Tensor:
        """Those of some rows.  → n,K, each row of sum one"""
        return (_scores(self, rows) + self.offsets).softmax(1)


@torch.no_grad()
def balanced(
    rows: Tensor, prototypes: Tensor, temperature: float, counted: Tensor | None = None, iterations: int = 3
) -> Assignments:
    """Assignments after so many iterations, each over prototypes, then over rows.

    rows: N,P, this process's, of any number; prototypes: K,P, the same on all processes. counted: N bool, rows that take part
    in the balance (all, where None); the others are assigned like them and change nothing. The published code's first step, a
    division by the sum of all, has no influence and is left out.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, prototypes = at_least_fp32(rows), at_least_fp32(prototypes)
        found = Assignments(rows, prototypes, rows.new_zeros(len(prototypes)), temperature)
        for i in range(iterations):
            columns = rows.new_full((len(prototypes),), -torch.inf)  # log Σ_n of what is assigned to each prototype
            for tile in row_tiles(len(rows), len(prototypes)):
                scores = _scores(found, tile)
                if i:  # rows have a sum of one since the last iteration
                    scores = scores - (scores + found.offsets).logsumexp(1, keepdim=True)
                if counted is not None:
                    scores = scores.masked_fill(~counted[tile, None], -torch.inf)
                columns = torch.logaddexp(columns, scores.logsumexp(0))
            columns = gather(columns[None]).logsumexp(0)  # of all processes: W,K → K
            offsets = torch.where(columns.isfinite(), -columns, 0.0)  # no row counts anywhere: nothing to balance
            found = Assignments(rows, prototypes, offsets - offsets.mean(), temperature)
        return found


def cross_entropy(student: Tensor, prototypes: Tensor, temperature: float, expected: Tensor) -> Tensor:
    """−Σ_k p_nk log softmax_k(s_n·c_k / T) of each row.  student: N,P; prototypes: K,P; expected: N,P, Σ_k p_nk c_k → N

    Equal to log Σ_k exp(s_n·c_k / T) − s_n·Σ_k p_nk c_k / T, since the p_nk of a row have a sum of one.
    """
    return log_sum_exp(student, prototypes, temperature) - (student * expected).sum(1) / temperature


def expected_prototypes(assignments: Assignments, prototypes: Tensor) -> Tensor:
    """Σ_k p_nk c_k for each row.  prototypes: K,P, the student's, which get the gradient → N,P"""
    return _Expected.apply(prototypes, assignments)


class _Expected(torch.autograd.Function):
    """p C with p in tiles, made anew for the gradient."""

    @staticmethod
    def forward(ctx, prototypes: Tensor, assignments: Assignments) -> Tensor:
        ctx.assignments = assignments
        found = prototypes.new_empty(len(assignments.rows), prototypes.shape[1])
        for tile in row_tiles(len(found), len(prototypes)):
            found[tile] = assignments.of(tile) @ prototypes
        return found

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        found = gradient.new_zeros(len(ctx.assignments.prototypes), gradient.shape[1])
        for tile in row_tiles(len(gradient), len(found)):
            found.addmm_(ctx.assignments.of(tile).T, gradient[tile])
        return found, None


def _scores(assignments: Assignments, rows: slice) -> Tensor:
    return assignments.rows[rows] @ assignments.prototypes.T / assignments.temperature
