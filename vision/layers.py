"""How deep a parameter lies: timm's own grouping of an encoder's layers, the input's first."""
from timm.models import group_parameters
from torch import nn


def depths(encoder: nn.Module, coarse: bool = False) -> dict[str, int]:
    """Parameter → its layer's number, 0 at the input. coarse: stages rather than blocks.

    A model that timm cannot group has a layer a module, in the order of their definition.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if hasattr(encoder, "group_matcher"):
        group = group_parameters(encoder, encoder.group_matcher(coarse=coarse), reverse=True)
    else:
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        group = {name: modules.index(name.rpartition(".")[0]) for name in names}
    order = {number: i for i, number in enumerate(sorted({group[name] for name in names}))}
    return {name: order[group[name]] for name in names}
