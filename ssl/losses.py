"""Losses as pure functions, written for the global batch.

Over W processes each function returns the mean over this process's rows; the mean of those over processes is the loss
of the joined batch, and so is the averaged gradient (`gather` keeps gradients).
"""
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from core.method import at_least_fp32
from core.numerics import unit
from core.processes import gather, rank, world_size

TILE = 1 << 22  # similarities held at a time: 256 × 16384 floats are 16 MB; with more, CPU caches miss


class _TiledLogSumExp(torch.autograd.Function):
    """log Σ_{j ∉ skipped_i} exp(q_i·k_j) for each i, without the N×M matrix.

    Forward keeps one number a row; backward recomputes each tile's similarities. So extra memory is O(N + M + TILE), and
    the arithmetic is one more matrix product than keeping the matrix would need.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, skipped: Tensor | None) -> Tensor:
        N = len(queries)
        lse = queries.new_empty(N)
        buffer = _buffer(queries, len(keys))
        for rows in row_tiles(N, len(keys)):
            lse[rows] = _similarities(queries[rows], keys, skipped, rows, buffer).logsumexp(1)
        ctx.save_for_backward(queries, keys, skipped, lse)
        return lse

    @staticmethod
    def backward(ctx, gradient: Tensor):
        queries, keys, skipped, lse = ctx.saved_tensors
        grad_queries = torch.empty_like(queries)
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        buffer = _buffer(queries, len(keys))
        for rows in row_tiles(len(queries), len(keys)):
            tile = _similarities(queries[rows], keys, skipped, rows, buffer)
            p = tile.sub_(lse[rows, None]).exp_().mul_(gradient[rows, None])  # softmax over keys, weighted
            torch.mm(p, keys, out=grad_queries[rows])
            if grad_keys is not None:
                grad_keys.addmm_(p.T, queries[rows])
        return grad_queries, grad_keys, None


class _SymmetricCrossEntropy(torch.autograd.Function):
    """The same for z as queries and keys at once: S = z zᵀ/T is symmetric, so tiles on and above its diagonal do.

    z: 2B,D, row i of one half the positive of row i of the other.  With E = exp S off the diagonal, r_i = 1 / Σ_j E_ij:
    loss = mean_i [ −log r_i − S_{i,p(i)} ],  ∂loss/∂z_i = (Σ_j E_ij (r_i + r_j) z_j − 2 z_p(i)) / (2B·T).
    Rows are unit vectors, so |S| ≤ 1/T and no maximum need be taken out of E: `_exp_fits` says where that is safe.
    """

    @staticmethod
    def forward(ctx, z: Tensor, temperature: float) -> Tensor:
        N, scaled, sums = len(z), z / temperature, z.new_zeros(len(z))
        buffer = _buffer(z, N)
        for rows in row_tiles(N, N):
            tile = _exponentials(scaled, z, rows, buffer)  # rows, all columns from rows.start on
            sums[rows] += tile.sum(1)
            sums[rows.stop :] += tile[:, len(tile) :].sum(0)
        ctx.save_for_backward(z, sums)
        ctx.temperature = temperature
        return (sums.log() - (scaled * z.roll(N // 2, 0)).sum(1)).mean()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        z, sums = ctx.saved_tensors
        N, scaled, r = len(z), z / ctx.temperature, 1 / sums
        grad = -2 * z.roll(N // 2, 0)
        buffer, factors = _buffer(z, N), _buffer(z, N)
        for rows in row_tiles(N, N):
            tile = _exponentials(scaled, z, rows, buffer)
            tile *= torch.add(r[rows, None], r[rows.start :], out=_view(factors, tile.shape))  # E_ij (r_i + r_j)
            grad[rows].addmm_(tile, z[rows.start :])
            grad[rows.stop :].addmm_(tile[:, len(tile) :].T, z[rows])
        return grad * (gradient / (N * ctx.temperature)), None


def row_tiles(length: int, columns: int):
    """Slices of the rows of a matrix of so many columns that is never held whole."""
    height = max(64, TILE // max(columns, 1))
    return (slice(i, min(i + height, length)) for i in range(0, length, height))


def _buffer(like: Tensor, columns: int) -> Tensor:
    """Room for the tallest tile."""
    first = next(row_tiles(len(like), columns))
    return like.new_empty(first.stop * columns)


def _view(buffer: Tensor, shape: tuple[int, int]) -> Tensor:
    return buffer[: shape[0] * shape[1]].view(shape)


def _similarities(queries: Tensor, keys: Tensor, skipped: Tensor | None, rows: slice, buffer: Tensor) -> Tensor:
    tile = torch.mm(queries, keys.T, out=_view(buffer, (len(queries), len(keys))))
    if skipped is not None:
        tile.scatter_(1, skipped[rows], float("-inf"))
    return tile


def _exponentials(scaled: Tensor, z: Tensor, rows: slice, buffer: Tensor) -> Tensor:
    queries, keys = scaled[rows], z[rows.start :]
    tile = torch.mm(queries, keys.T, out=_view(buffer, (len(queries), len(keys)))).exp_()
    tile.diagonal().zero_()  # an embedding is no negative of itself
    return tile


def _exp_fits(temperature: float, rows: int, dtype: torch.dtype) -> bool:
    """Can e^(±1/T), and a sum of so many of them, neither overflow nor vanish?  float32: T > 1/70 at 16384 rows."""
    return 1 / temperature + math.log(rows) < 0.9 * math.log(torch.finfo(dtype).max)


def log_sum_exp(queries: Tensor, keys: Tensor, temperature: float, skipped: Tensor | None = None) -> Tensor:
    """log Σ_j exp(q_i·k_j/T) over all keys but those that row i of `skipped` (N,E int64) names.  N,D and M,D → N

    Computed tile by tile: memory grows with N + M, not N·M, and no process ever holds a matrix of similarities.
    """
    return _TiledLogSumExp.apply(queries / temperature, keys, skipped)


def contrastive(
    queries: Tensor, keys: Tensor, positives: Tensor, temperature: float, own: Tensor | None = None
) -> Tensor:
    """InfoNCE: −mean_i log [ exp(q_i·k_{p_i}/T) / Σ_{j ≠ own_i} exp(q_i·k_j/T) ].

    Oord et al. 2018 (arXiv 1807.03748), eq. 4.

    queries: N,D and keys: M,D, normalised; positives: N int64, each query's key; own: N int64, a key to leave out.
    Computed in float32 at least.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = at_least_fp32(queries), at_least_fp32(keys)
        positive = (queries * keys[positives]).sum(1) / temperature
        return (log_sum_exp(queries, keys, temperature, None if own is None else own[:, None]) - positive).mean()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's NT-Xent, Chen et al. 2020 (arXiv 2002.05709), eq. 1, over the embeddings of all processes.

    first, second: B,D embeddings of two views of the same B images, any length; they are normalised here.
    Each of the 2·W·B embeddings is contrasted with all others but itself.
    """
    B = len(first)
    with torch.autocast(first.device.type, enabled=False):
        z = unit(at_least_fp32(torch.cat([first, second])), dim=1)
        if world_size() == 1 and _exp_fits(temperature, 2 * B, z.dtype):
            return _SymmetricCrossEntropy.apply(z, temperature)
        keys, own = global_rows(z)  # W*2*B,D: each process's first views, then its second ones
        positives = own.roll(B)  # row i of one view ↔ row i of the other
        return contrastive(z, keys, positives, temperature, own)


def queue_contrastive(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's InfoNCE, He et al. 2020 (arXiv 1911.05722), eq. 1: one positive, the queue's K keys as negatives.

    queries, keys: B,D normalised, row i of one the positive of row i of the other; queue: K,D normalised.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, queue = at_least_fp32(queries), at_least_fp32(keys), at_least_fp32(queue)
        positive = (queries * keys).sum(1) / temperature
        return F.softplus(log_sum_exp(queries, queue, temperature) - positive).mean()


def global_rows(z: Tensor) -> tuple[Tensor, Tensor]:
    """Every process's rows, and where ours are among them.  N,D → W·N,D and N int64"""
    return gather(z), torch.arange(len(z), device=z.device) + rank() * len(z)


def nearest(queries: Tensor, queue: Tensor, count: int = 1) -> Tensor:
    """The queue's `count` nearest rows by inner product, nearest first.  N,D and K,D → N,count,D (no gradient)"""
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        rows = row_tiles(len(queries), len(queue))
        return torch.cat([queue[(queries[r].to(queue.dtype) @ queue.T).topk(count, dim=1).indices] for r in rows])


