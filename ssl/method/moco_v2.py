"""MoCo v2: Chen, Fan, Girshick, He, "Improved baselines with momentum contrastive learning", 2020, arXiv
2003.04297, on MoCo: He et al., CVPR 2020, arXiv 1911.05722.

Queries are contrasted with a queue of keys that a slowly moving copy of the network made. BatchNorm would let a query find
its key by the statistics both share, so keys are normalised in other groups than their queries ("shuffling BN", §3.3).
Here the groups need no GPUs: `bn_splits` groups in all, on one process or many. `bn="sync"` uses the whole global batch
instead.

Changes: `symmetric` lets each view be query and key in turn (the authors' CIFAR demo); momentum may rise over the run.
The teacher moves in `after_step`, which is the same sequence as the authors' "before the keys" from the second step on.
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core import counter_rng
from core.batchnorm import average_statistics, split_batchnorm
from core.memory import Queue
from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, each_view, ema_copy, ema_update_
from core.numerics import unit
from core.processes import gather, local_rows, world_size
from core.schedule import cosine
from ssl.losses import queue_contrastive
from ssl.method import check_constants, pairs
from vision.heads import mlp


@dataclass(frozen=True)
class Keys(Record):
    keys: Tensor  # B,1 or 2,P: the teacher's, one a key view


class MoCoV2(Method):
    traits = Traits(per_image=True)

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
        self.traits = replace(self.traits, sync_batchnorm=bn == "sync")
        self.encoder = encoder
        self.projector = mlp([encoder.dim, hidden, dim], hidden_norm=False)
        if bn == "shuffle":
            split_batchnorm(self, bn_splits // world_size())
        self.teacher = ema_copy(nn.Sequential(self.encoder, self.projector))
        self.temperature, self.momentum, self.bn_splits = temperature, tuple(momentum), bn_splits
        self.key_views = (1, 0) if symmetric else (1,)
        self.queue = Queue(queue_size, dim)

    def prepare(self, images: int, batch_size: int) -> list[str]:
        if not self.traits.sync_batchnorm and batch_size % self.bn_splits:
            raise ValueError(f"method.bn_splits={self.bn_splits} does not divide batch_size={batch_size}")
        return self.queue.fit(images, batch_size)

    def targets(self, batch: Batch) -> Keys:
        return Keys(torch.stack([self.keys(batch.views[t], batch.indices) for t in self.key_views], dim=1))

    def objective(self, features: Tensor, targets: Keys, progress: float) -> Output:
        keys = dict(zip(self.key_views, targets.keys.unbind(1), strict=True))  # view → B,P
        queries = unit(at_least_fp32(each_view(self.projector, features)), dim=2)  # B,V,P
        losses = [
            queue_contrastive(queries[:, view], keys[t], self.queue.rows, self.temperature)
            for t, view in pairs(queries.shape[1])
            if t in keys
        ]
        return Output(torch.stack(losses).mean(), {"momentum": cosine(progress, *self.momentum)}, targets)

    @torch.no_grad()
    def keys(self, view: Tensor, indices: Tensor) -> Tensor:
        """The teacher's keys.  B,C,H,W → B,P, computed in shuffled groups where BatchNorm is split."""
        if self.traits.sync_batchnorm:
            return unit(at_least_fp32(self.teacher(view)), dim=1)
        # a fixed random rank for each image: which images meet in a group changes with every batch
        indices = gather(indices.to(view.device))
        order = counter_rng.random_bits(0, 0, indices, counter_rng.SHUFFLE, 1)[:, 0].argsort(stable=True)  # W*B
        shuffled = local_rows(gather(view)[order])
        if view.ndim == 4:
            shuffled = shuffled.contiguous(memory_format=torch.channels_last)
        keys = gather(unit(at_least_fp32(self.teacher(shuffled)), dim=1))
        return local_rows(keys[order.argsort()])

    def after_step(self, staged: Keys, progress: float) -> None:
        ema_update_(self.teacher, nn.Sequential(self.encoder, self.projector), cosine(progress, *self.momentum))
        self.queue.commit(*staged.keys.unbind(1))
        average_statistics(self)
