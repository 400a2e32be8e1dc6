"""Projection and prediction heads."""
from itertools import pairwise

from torch import nn


def mlp(
    dims: list[int],
    last_norm: str | None = None,
    hidden_norm: bool = True,
    last_bias: bool | None = None,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Linear → BatchNorm → activation for each hidden layer (no BatchNorm without `hidden_norm`), then a last linear one.

    dims: widths from input to output.  last_norm: None; "affine" (BatchNorm); "scale" (BatchNorm that scales but does
    not shift, as SimCLR's output layer); "plain" (BatchNorm with neither, as MoCo v3's).
    A linear layer that BatchNorm follows has no bias, the mean would swallow it; the last has one unless `last_bias` is False.
    """
    layers: list[nn.Module] = []
    last = len(dims) - 2
    for i, (width, out) in enumerate(pairwise(dims)):
        if i < last:
            norm = [nn.BatchNorm1d(out)] if hidden_norm else []
            inner = nn.ReLU(inplace=True) if activation is nn.ReLU else activation()
            layers += [nn.Linear(width, out, bias=not hidden_norm), *norm, inner]
        else:
            layers.append(nn.Linear(width, out, bias=last_norm is None if last_bias is None else last_bias))
    if last_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_norm != "plain"))
    if last_norm == "scale":
        layers[-1].bias.requires_grad_(False)  # stays at zero
    return nn.Sequential(*layers)
