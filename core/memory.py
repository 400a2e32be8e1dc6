"""A first-in, first-out memory of embeddings, the same on every process."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.processes import gather


class Queue(nn.Module):
    """The newest K embeddings of unit length. It starts as random directions.

    An objective stages new embeddings and `after_step` commits them: a step's own embeddings are never among its negatives.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        if size < 1:
            raise ValueError(f"method.queue_size={size}: must be 1 or more")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))  # K,P
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))  # where the next ones go

    def __len__(self) -> int:
        return len(self.rows)

    def fit(self, images: int, batch_size: int) -> list[str]:
        """Shorten to half of the data, in whole batches: a longer one would hold an image's own key as a negative."""
        K, most = len(self), max(images // 2 // batch_size, 1) * batch_size
        if most >= K:
            return []
        self.rows = self.rows[:most].clone()
        return [f"method.queue_size={K} shortened to {most}: half of the {images} images, in whole batches"]

    @torch.no_grad()
    def commit(self, *staged: Tensor) -> None:
        """Embeddings of all processes take the place of the oldest.  staged: B,P each, this process's"""
        K = len(self)
        rows = torch.cat([gather(z.detach()) for z in staged])[-K:].to(self.rows.dtype)
        slots = (self.oldest + torch.arange(len(rows), device=rows.device)) % K
        self.rows[slots] = rows
        self.oldest.copy_((self.oldest + len(rows)) % K)
