"""Projection and prediction heads."""
from itertools import pairwise

from torch import nn


def mlp(dims: list[int], last_norm: str | None = None, hidden_norm: bool = True) -> nn.Sequential:
    """Linear → BatchNorm → ReLU for each hidden layer (no BatchNorm without `hidden_norm`), then a last linear one.

    dims: widths from input to output.  last_norm: None; "scale" (BatchNorm that scales but does not shift, as SimCLR's
    output layer); "plain" (BatchNorm with neither, as MoCo v3's).
    A linear layer that BatchNorm follows has no bias: the mean would swallow it.
    """
    layers: list[nn.Module] = []
    last = len(dims) - 2
    for i, (width, out) in enumerate(pairwise(dims)):
        if i < last:
            norm = [nn.BatchNorm1d(out)] if hidden_norm else []
            layers += [nn.Linear(width, out, bias=not hidden_norm), *norm, nn.ReLU(inplace=True)]
        else:
            layers.append(nn.Linear(width, out, bias=last_norm is None))
    match last_norm:
        case "plain":
            layers.append(nn.BatchNorm1d(dims[-1], affine=False))
        case "scale":
            norm = nn.BatchNorm1d(dims[-1])
            norm.bias.requires_grad_(False)  # stays at zero
            layers.append(norm)
    return nn.Sequential(*layers)
