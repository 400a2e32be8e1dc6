"""Encoders whose layers are narrower than timm builds them: structured pruning leaves each layer a width of its own.

A pruned encoder is its unpruned self with some layers made narrower; the shapes of their weights are all one has to know.
"""
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Shapes = dict[str, tuple[int, ...]]  # a layer's name → its weight's shape


def shapes(model: nn.Module, unpruned: nn.Module) -> Shapes:
    """Of the layers that differ.  Raises ValueError where the two are not of one kind."""
    before, found = dict(unpruned.named_modules()), {}
    if {*model.state_dict()} != {*unpruned.state_dict()}:
        raise ValueError("a pruned encoder must have the unpruned one's tensors, smaller")
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.shape != before[name].weight.shape:
            if not isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm)):
                raise ValueError(f"{name}: a {type(module).__name__} cannot be pruned here")
            found[name] = tuple(weight.shape)
    return found


def reshape(model: nn.Module, to: Shapes) -> nn.Module:
    """Give layers the shapes that pruning left them, with fresh weights. In place."""
    for name, shape in to.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups > 1
            layer.out_channels, layer.groups = shape[0], shape[0] // shape[1] if depthwise else 1
            layer.in_channels = shape[1] * layer.groups
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
