"""MoCo v2: Chen, Fan, Girshick, He, "Improved baselines with momentum contrastive learning", 2020, arXiv
2003.04297, on MoCo: He et al., CVPR 2020, arXiv 1911.05722.

Queries are told from a queue of keys that a slowly moving copy of the network made. BatchNorm would let a query find
its key by the statistics both share, so keys are normalised in other groups than their queries ("shuffling BN", §3.3).
Here the groups need no GPUs: `bn_splits` groups in all, on one process or many. `bn="sync"` uses the whole global batch
instead.

Changes: `symmetric` lets each view be query and key in turn (the authors' CIFAR demo); momentum may rise over the run.
The teacher moves in `after_step`, which is the same sequence as the authors' "before the keys" from the second step on.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.batchnorm import average_statistics, split_batchnorm
from core.distributed import gather, local_rows, world_size
from core.method import Batch, Method, ema_, teacher_of
from core.schedule import cosine
from ssl.losses import exact, queue_contrastive
from ssl.method import check_constants
from vision import random
from vision.heads import mlp


class MoCoV2(Method):
    def __init__(
        self,
        encoder: nn.Module,
        hidden: int,
        dim: int,
        temperature: float,
        queue_size: int,
        momentum: tuple[float, float],
        symmetric: bool,
        bn: str,
        bn_splits: int,
    ):
        super().__init__()
        check_constants(temperature, momentum)
        if bn not in ("shuffle", "sync"):
            raise ValueError(f"method.bn={bn}: there are shuffle and sync")
        if bn == "shuffle" and bn_splits % world_size():
            raise ValueError(f"method.bn_splits={bn_splits} does not divide among {world_size()} processes")
        self.sync_batchnorm = bn == "sync"
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim], hidden_norm=False)
        if bn == "shuffle":
            split_batchnorm(self, bn_splits // world_size())
        self.teacher = teacher_of(nn.Sequential(self.encoder, self.projector))
        self.temperature, self.momentum, self.symmetric, self.bn_splits = temperature, tuple(momentum), symmetric, bn_splits
        self.register_buffer("queue", _random_directions(queue_size, dim))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))  # where the next keys go
        self.fresh: list[Tensor] = []  # keys of this step, for after_step

    def prepare(self, images: int, batch_size: int) -> list[str]:
        if not self.sync_batchnorm and batch_size % self.bn_splits:
            raise ValueError(f"method.bn_splits={self.bn_splits} does not divide batch_size={batch_size}")
        K = len(self.queue)
        most = max(images // 2 // batch_size, 1) * batch_size
        if most >= K:
            return []
        # a queue longer than the data would hold an image's own key as a negative
        self.queue = self.queue[:most].clone()
        return [f"method.queue_size={K} shortened to {most}: half of the {images} images, in whole batches"]

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        first, second = batch.views
        pairs = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        losses = []
        for query_view, key_view in pairs:
            queries = F.normalize(exact(self.projector(self.encoder(query_view))), dim=1)  # B,P
            keys = self.keys(key_view, batch.indices)
            losses.append(queue_contrastive(queries, keys, self.queue, self.temperature))
            self.fresh.append(keys)
        return torch.stack(losses).mean(), {"momentum": cosine(progress, *self.momentum)}

    @torch.no_grad()
    def keys(self, view: Tensor, indices: Tensor) -> Tensor:
        """The teacher's keys.  B,C,H,W → B,P, computed in shuffled groups where BatchNorm is split."""
        if self.sync_batchnorm:
            return F.normalize(exact(self.teacher(view)), dim=1)
        # a fixed random rank for each image: which images meet in a group changes with every batch
        order = random.words(0, 0, gather(indices), random.SHUFFLE, 1)[:, 0].argsort(stable=True)  # W*B
        shuffled = local_rows(gather(view)[order.to(view.device)])
        if view.ndim == 4:
            shuffled = shuffled.contiguous(memory_format=torch.channels_last)
        keys = gather(F.normalize(exact(self.teacher(shuffled)), dim=1))
        return local_rows(keys[order.argsort().to(view.device)])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        ema_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
        keys = torch.cat([gather(k) for k in self.fresh])
        K = len(self.queue)
        keys = keys[-K:]
        slots = (self.oldest + torch.arange(len(keys), device=keys.device)) % K
        self.queue[slots] = keys
        self.oldest.copy_((self.oldest + len(keys)) % K)
        self.fresh.clear()
        average_statistics(self)


def _random_directions(count: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(count, dim), dim=1)
