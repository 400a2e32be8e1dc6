"""Encoders whose layers are narrower than timm builds them: structured pruning leaves each layer a width of its own.

A pruned encoder is its unpruned self with some layers made narrower; the shapes of their weights, and the groups of grouped
convolutions, are all one has to know.
"""
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Shapes = dict[str, tuple[int, ...]]  # a layer's name → its weight's shape; of a grouped convolution the groups too


def shapes(model: nn.Module, unpruned: nn.Module) -> Shapes:
    """Of the layers that differ.  Raises ValueError where the two are not of one kind."""
    before, changes = dict(unpruned.named_modules()), {}
    if {*model.state_dict()} != {*unpruned.state_dict()}:
        raise ValueError("a pruned encoder must have the unpruned one's tensors, smaller")
    for name, module in model.named_modules():
        changed = [part for part, tensor in module.named_parameters(recurse=False)
                   if tensor.shape != getattr(before[name], part).shape]
        if changed and not isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm)):
            raise ValueError(f"{name}: a {type(module).__name__} cannot be pruned here")
        if changed or getattr(module, "groups", 1) != getattr(before[name], "groups", 1):
            shape = tuple(module.weight.shape)
            usual = not isinstance(module, nn.Conv2d) or module.groups == _groups(shape, before[name])
            changes[name] = shape if usual else (*shape, module.groups)
    return changes


def _groups(shape: tuple[int, ...], unpruned: nn.Conv2d) -> int:
    """Of a convolution whose shape alone was written: right for depthwise ones, which keep a group a channel."""
    return shape[0] // shape[1] if unpruned.groups > 1 else 1


def reshape(model: nn.Module, to: Shapes) -> nn.Module:
    """Give layers the shapes that pruning left them, with fresh weights. In place."""
    for name, shape in to.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            *shape, groups = shape if len(shape) == 5 else (*shape, _groups(shape, layer))
            layer.out_channels, layer.groups = shape[0], groups
            layer.in_channels = shape[1] * groups
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
        elif isinstance(layer, _BatchNorm):
            layer.num_features = shape[0]
        else:
            raise ValueError(f"{name}: a {type(layer).__name__} cannot be pruned here")
        _shrink(layer, shape)
    return model


def _shrink(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The layer's tensors at their leading part: drawn, or set, as they were."""
    with torch.no_grad():
        layer.weight = nn.Parameter(layer.weight[tuple(slice(n) for n in shape)].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[: shape[0]].clone())
        for name in ("running_mean", "running_var"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, getattr(layer, name)[: shape[0]].clone())
