"""Parameters, gradients and optimizer states spread over all processes (`--shard`), by torch's FSDP2.

Rajbhandari, Rasley, Ruwase, He 2020, "ZeRO: memory optimizations toward training trillion parameter models", arXiv 1910.02054,
stage 3. Each block is a unit: its weights are brought together for its forward and for its backward pass, and each process
keeps the gradient of its own rows. What lies in no block belongs to the method itself and is whole during a step. A teacher,
a predictor and a decoder are divided alike, so a moving average is one of rows.

The method is divided before its optimizer is made, which then holds rows (torch's DTensor) too.
"""
import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.errors import SettingError
from core.processes import full, is_main, is_rows, is_sharded, world_size
from core.recompute import all_blocks


def shard_(method: nn.Module, device: torch.device, in_chunks: bool = False) -> None:
    """Spread a method over all processes, in place: every process has the same weights before, and rows of them after.

    device: where the rows go, unit by unit. in_chunks: the parts of a step are called one by one (core/gradcache.py).
    Raises SettingError for an encoder whose blocks are not known.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    found = all_blocks(method)
    if not found:
        raise SettingError("shard", "true: this encoder has no blocks that are known; leave it out")
    mesh = init_device_mesh(device.type, (world_size(),))
    for parameter in method.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no other
    for block in reversed([module for module in method.modules() if module in found]):  # a part before the whole
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(method, mesh=mesh, reshard_after_forward=False)
    method.to(device)  # buffers
    for unit in filter(is_sharded, method.modules()) if device.type == "cpu" else ():
        unit.set_force_sum_reduction_for_comms(True)  # Gloo's own average was a sum in some versions of torch
    for name in ("embed", "targets", "objective") if in_chunks else ():
        register_fsdp_forward_method(method, name)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nothing here writes to it


class WholeEncoder:
    """Makes an encoder as it is without `shard`. To be made while it is whole; takes no memory for weights."""

    def __init__(self, encoder: nn.Module):
        self.shape = copy.deepcopy(encoder).to("meta")

    def of(self, encoder: nn.Module, device: torch.device) -> nn.Module:
        """A whole copy of the sharded encoder on the main process, which may use it by itself; on others the shape alone.

        Collective.
        """
        whole = copy.deepcopy(self.shape)
        tensors = _tensors(whole.to_empty(device=device)) if is_main() else {}
        for name, value in _tensors(encoder).items():
            value = full(value.detach())  # one by one
            if is_main():
                tensors[name].detach().copy_(value)
        return whole


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one by one; where they are sharded, on the main process alone.  Collective in that case"""
    found, written = {}, set()
    for name, value in tensors.items():
        whole = full(value.detach())
        if is_main() or not is_rows(value):
            whole = whole.cpu().contiguous()
            found[name] = whole.clone() if whole.data_ptr() in written else whole  # of a layer that stands in two places
            written.add(whole.data_ptr())
    return found


def divided(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: this process's rows of it, where that is sharded."""
    from torch.distributed.tensor import distribute_tensor

    if not is_rows(like) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
