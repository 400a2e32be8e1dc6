"""Losses as pure functions, written for the global batch.

Over W processes each function returns the mean over this process's rows; the mean of those over processes is the loss of
the joined batch, and so is the averaged gradient (`gather` keeps gradients).
"""
import torch
from torch import Tensor
from torch.nn import functional as F

from core.distributed import gather, rank

TILE = 1024  # rows of similarities held at a time: 1024 × 16384 floats are 64 MB


class _TiledCrossEntropy(torch.autograd.Function):
    """mean_i [ logsumexp_{j ≠ self_i} q_i·k_j − q_i·k_{positive_i} ] without the N×M matrix.

    Forward keeps one number a row; backward recomputes each tile's similarities. So extra memory is O(N + TILE·M), and
    the arithmetic is one more matrix product than keeping the matrix would need.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, positives: Tensor, own: Tensor | None) -> Tensor:
        N = len(queries)
        lse = queries.new_empty(N)
        height = _tile_height(len(keys))
        buffer = queries.new_empty(min(height, N), len(keys))
        for rows in _tiles(N, height):
            tile = _similarities(queries[rows], keys, own, rows, buffer)
            lse[rows] = tile.logsumexp(1)
        ctx.save_for_backward(queries, keys, positives, own, lse)
        return (lse - (queries * keys[positives]).sum(1)).mean()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        queries, keys, positives, own, lse = ctx.saved_tensors
        N = len(queries)
        grad_queries = torch.empty_like(queries)
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        height = _tile_height(len(keys))
        buffer = queries.new_empty(min(height, N), len(keys))
        for rows in _tiles(N, height):
            tile = _similarities(queries[rows], keys, own, rows, buffer)
            p = tile.sub_(lse[rows, None]).exp_()  # softmax over keys
            p[torch.arange(len(p), device=p.device), positives[rows]] -= 1
            torch.mm(p, keys, out=grad_queries[rows])
            if grad_keys is not None:
                grad_keys.addmm_(p.T, queries[rows])
        scale = gradient / N
        return grad_queries * scale, None if grad_keys is None else grad_keys * scale, None, None


def _tile_height(keys: int) -> int:
    return max(64, min(TILE, TILE * 16384 // max(keys, 1)))


def _tiles(length: int, height: int):
    return (slice(i, min(i + height, length)) for i in range(0, length, height))


def _similarities(queries: Tensor, keys: Tensor, own: Tensor | None, rows: slice, buffer: Tensor) -> Tensor:
    tile = torch.mm(queries, keys.T, out=buffer[: len(queries)])
    if own is not None:  # an embedding is no negative of itself
        tile[torch.arange(len(tile), device=tile.device), own[rows]] = float("-inf")
    return tile


def contrastive(
    queries: Tensor, keys: Tensor, positives: Tensor, temperature: float, own: Tensor | None = None
) -> Tensor:
    """InfoNCE: −mean_i log [ exp(q_i·k_{p_i}/T) / Σ_{j ≠ own_i} exp(q_i·k_j/T) ], Oord et al. 2018 (arXiv 1807.03748), eq. 4.

    queries: N,D and keys: M,D, normalised; positives: N int64, each query's key; own: N int64, a key to leave out.
    Computed in float32 at least, tile by tile: memory grows with N + M, not N·M.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return _TiledCrossEntropy.apply(_exact(queries) / temperature, _exact(keys), positives, own)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's NT-Xent, Chen et al. 2020 (arXiv 2002.05709), eq. 1, over the embeddings of all processes.

    first, second: B,D embeddings of two views of the same B images, any length; they are normalised here.
    Each of the 2·W·B embeddings is to be told from all others but itself.
    """
    B = len(first)
    z = F.normalize(_exact(torch.cat([first, second])), dim=1)
    keys = gather(z)  # W*2*B,D: each process's first views, then its second ones
    own = torch.arange(2 * B, device=z.device) + rank() * 2 * B
    positives = own.roll(B)  # row i of one view ↔ row i of the other
    return contrastive(z, keys, positives, temperature, own)


def queue_contrastive(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's InfoNCE, He et al. 2020 (arXiv 1911.05722), eq. 1: one positive, the queue's K keys as negatives.

    queries, keys: B,D normalised, row i of one the positive of row i of the other; queue: K,D normalised.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, queue = _exact(queries), _exact(keys), _exact(queue)
        positive = (queries * keys).sum(1, keepdim=True)  # B,1
        logits = torch.cat([positive, queries @ queue.T], dim=1) / temperature  # B,1+K
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def _exact(x: Tensor) -> Tensor:
    """At least float32: softmax over thousands of similarities loses its tail in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
