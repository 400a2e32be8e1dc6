"""Batch normalisation over other sets than this process's batch: all processes (sync), or groups of it (split).

Both take the place of any BatchNorm, timm's normalise-and-activate ones included, and keep its parameters' names.
"""
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.processes import total, world_size


class SyncBatchNorm(_BatchNorm):
    """Statistics of the global batch: on CUDA by torch's kernels; on a CPU, where torch has none, two differentiable sums.

    No subclass of torch's, which DistributedDataParallel refuses on a CPU.
    """

    process_group = None
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            y = _BatchNorm.forward(self, x)
        elif x.device.type == "cuda":
            y = nn.SyncBatchNorm.forward(self, x)
        else:
            y = self._over_processes(x)
        return self.act(y) if self.act is not None else y

    def _over_processes(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        dtype, x = x.dtype, x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = x.numel() // x.shape[1] * world_size()
        mean = total(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = total(centred.square().sum(dims)) / count  # two passes: exact where E[x²] − E[x]² cancels
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), _momentum(self))
                unbiased = variance.detach() * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), _momentum(self))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(dtype)


class SplitBatchNorm(nn.BatchNorm2d):
    """Statistics of each of `splits` consecutive groups of the batch, as if each had a device of its own.

    One process then behaves as the several that MoCo's shuffling BatchNorm needs (He et al. 2020, arXiv 1911.05722,
    §3.3). The running statistics average over the groups.
    """

    splits = 1

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        B, G = len(x), self.splits
        if self.training and B % G:
            raise ValueError(f"a batch of {B} images a process does not split into {G} equal groups (method.bn_splits)")
        if not self.training or G == 1:
            y = super().forward(x)
        else:
            means = variances = [None] * G
            if self.track_running_stats:
                self.num_batches_tracked += 1
                means, variances = self.running_mean.repeat(G, 1), self.running_var.repeat(G, 1)  # G,C
            y = torch.cat([
                nn.functional.batch_norm(part, m, v, self.weight, self.bias, True, _momentum(self), self.eps)
                for part, m, v in zip(x.chunk(G), means, variances, strict=True)
            ])
            if self.track_running_stats:
                self.running_mean.copy_(means.mean(0))
                self.running_var.copy_(variances.mean(0))
        return self.act(y) if self.act is not None else y


def _momentum(norm: _BatchNorm) -> float:
    """The newest batch's share of the running statistics; torch's None means their cumulative average."""
    if norm.momentum is None:
        return 1 / float(norm.num_batches_tracked) if norm.track_running_stats else 0.0
    return norm.momentum


def has_batchnorm(module: nn.Module) -> bool:
    return any(isinstance(m, _BatchNorm) for m in module.modules())


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Every BatchNorm inside, over all processes. In place where it can be; returns the module."""
    return _replace(module, SyncBatchNorm)


def split_batchnorm(module: nn.Module, splits: int) -> nn.Module:
    """Every BatchNorm inside, over `splits` groups of this process's batch."""
    module = _replace(module, SplitBatchNorm)
    for child in module.modules():
        if isinstance(child, SplitBatchNorm):
            child.splits = splits
    return module


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Running statistics of split BatchNorms, averaged over processes: then they are those of all groups of all."""
    norms = [m for m in module.modules() if isinstance(m, SplitBatchNorm) and m.track_running_stats]
    if world_size() == 1 or not norms:
        return
    buffers = [b for m in norms for b in (m.running_mean, m.running_var)]
    averaged = total(torch.cat(buffers)) / world_size()
    for buffer, part in zip(buffers, averaged.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(part)


def _replace(module: nn.Module, kind: type) -> nn.Module:
    if isinstance(module, _BatchNorm):
        new = kind(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            setattr(new, name, value)  # the very same tensors: an optimizer may hold them already
        new.act = getattr(module, "act", None)  # timm's BatchNormAct2d: normalise, drop, activate
        if not isinstance(getattr(module, "drop", nn.Identity()), nn.Identity):
            new.act = nn.Sequential(module.drop, new.act)
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _replace(child, kind))
    return module
