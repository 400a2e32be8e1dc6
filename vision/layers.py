"""How deep a parameter lies, by timm's own grouping of an encoder's layers, and what rate it learns at for that."""
from collections.abc import Collection

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


def rates(
    encoder: nn.Module, decay: float = 1.0, stem: float = 1.0, coarse: bool = False, whole: Collection[str] = ()
) -> dict[str, float]:
    """Parameter → its share of the learning rate: decay^(L + 1 - i) in layer i of L, counted from 0 at the input, so that what
    lies above the encoder has all of it (Clark et al. 2020, arXiv 2003.10555; BEiT, arXiv 2106.08254).

    stem: a further factor for the patch embedding, or for the first layer of an encoder without one (DINOv2, arXiv 2304.07193,
    has 0.2). coarse: a layer is a stage. whole: parameters that have all of the rate.
    """
    layers = depths(encoder, coarse)
    top = max(layers.values()) + 1
    first = {name for name in layers if "patch_embed" in name} or {name for name, depth in layers.items() if depth == 0}
    shares = {name: decay ** (top - depth) * (stem if name in first else 1.0) for name, depth in layers.items()}
    return shares | dict.fromkeys(whole, 1.0)
