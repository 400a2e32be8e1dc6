"""How weights are pruned: whole channels, which leave a smaller encoder, or single weights, which become zero."""
from dataclasses import replace

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune

from deploy.compare import reason
from vision import cost, encoders, pruned

STEPS, MOST = 100, 0.95  # steps of pruning at most, and the share of a layer's channels that may be removed
ADVICE = "use --kind unstructured, or another encoder"


def prune_channels(model: nn.Module, encoder: nn.Module, keep: float, multiple: int) -> nn.Module:
    """Remove channels until the encoder has at most `keep` of its multiply-adds: over the whole encoder those of the least L2
    norm over the group of layers that share them (Fang et al. 2023, "DepGraph", arXiv 2301.12900).

    model: the encoder, or a classifier around it, whose outputs stay.  → the encoder, with its new spec and `.dim`.
    Raises ValueError where that cannot be done.
    """
    spec, most = encoder.spec, cost.macs(encoder) * keep
    images = torch.zeros(1, *spec.shape)
    heads = [m for name, m in model.named_modules() if name == "head" and isinstance(m, nn.Linear)]
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model, images, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=MOST,
            max_pruning_ratio=MOST, global_pruning=True, round_to=multiple, iterative_steps=STEPS, ignored_layers=heads,
        )
        for _ in range(STEPS):
            if cost.macs(encoder) <= most:
                break
            pruner.step()
    except Exception as error:  # torch-pruning traces the graph of any model, and fails in as many ways
        raise ValueError(f"encoder={spec.name} cannot be pruned by channels ({reason(error)}); {ADVICE}") from error
    if cost.macs(encoder) > most:
        raise ValueError(f"keep={keep:g}: {spec.name} keeps {cost.macs(encoder) / most * keep:.0%} at the least")
    try:
        unpruned = encoders.build(replace(spec, pruned={}))
        encoder.spec = replace(spec, pruned=pruned.shapes(encoder, unpruned))
        with torch.no_grad():
            encoder.dim = encoder(images).shape[1]
        encoders.build(encoder.spec).load_state_dict(encoder.state_dict())
    except Exception as error:
        why = f"is pruned by channels to what no file can hold ({reason(error)})"
        raise ValueError(f"encoder={spec.name} {why}; {ADVICE}") from error
    return encoder


def prune_weights(encoder: nn.Module, keep: float) -> None:
    """Set the weights of the least magnitude over all convolutions and linear layers to zero, in place (Han et al. 2015, arXiv
    1506.02626).
    """
    layers = [(m, "weight") for m in encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=1 - keep)
    for layer, name in layers:
        prune.remove(layer, name)
