"""Low-rank changes of an encoder's weights, which alone are trained: LoRA.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Chen, "LoRA: low-rank adaptation of large language models", ICLR 2022, arXiv 2106.09685;
continued pretraining with it: ExPLoRA, arXiv 2406.10973. By torch's parametrizations: a layer computes with W + U·D, U of
`rank` columns and zero at first; `merged` is the encoder with that sum as its weights, under timm's names. Both compute the
same.
"""
import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

QUERIES = {"qkv", "q", "kv", "q_proj"}  # what shows that a module is attention, in timm
ATTENTION = QUERIES | {"k", "v", "proj", "k_proj", "v_proj", "out_proj"}
GATES = {"SqueezeExcite", "SEModule", "SqueezeExciteCl", "EffectiveSEModule"}
LEAST_SHARE = 0.25  # of a convolutional encoder's weights that must lie in 1×1 convolutions


class LowRank(nn.Module):
    """Added to a weight of shape O,I or O,I,1,1."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        like = {"dtype": weight.dtype, "device": weight.device}
        self.down = nn.Parameter(torch.empty(rank, weight[0].numel(), **like))
        self.up = nn.Parameter(torch.zeros(len(weight), rank, **like))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the authors' code

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


def attention_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """Name → linear layer that makes queries, keys, values or the output of attention."""
    found = {}
    for name, module in encoder.named_modules():
        linear = {child: layer for child, layer in module.named_children() if isinstance(layer, nn.Linear)}
        if linear.keys() & QUERIES:
            found |= {f"{name}.{child}".lstrip("."): layer for child, layer in linear.items() if child in ATTENTION}
    return found


def pointwise_layers(encoder: nn.Module) -> dict[str, nn.Module]:
    """Name → 1×1 convolution or linear layer, but for those that weigh channels (squeeze and excitation)."""
    gates = {id(layer) for gate in encoder.modules() if type(gate).__name__ in GATES for layer in gate.modules()}
    return {
        name: m for name, m in encoder.named_modules()
        if id(m) not in gates
        and (isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups == 1))
    }


def attach(encoder: nn.Module, rank: int, trainable: tuple[str, ...] = ()) -> nn.Module:
    """Freeze all of the encoder but the parameters called `trainable`, and add changes of this rank. In place.

    Of transformers to attention, of others to 1×1 convolutions and linear layers.  Raises ValueError where there are too few.
    """
    layers = attention_layers(encoder) or _pointwise(encoder, rank)
    for name, p in encoder.named_parameters():
        p.requires_grad_(name in trainable)
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    return encoder


def _pointwise(encoder: nn.Module, rank: int) -> dict[str, nn.Module]:
    layers = pointwise_layers(encoder)
    share = sum(layer.weight.numel() for layer in layers.values()) / sum(p.numel() for p in encoder.parameters())
    if share < LEAST_SHARE:
        name = getattr(getattr(encoder, "spec", None), "name", "this encoder")
        raise ValueError(
            f"lora={rank}: {name} has no attention, and only {share:.0%} of its weights lie in 1×1 convolutions; leave lora "
            "out, or take a transformer, ConvNeXt, EfficientNet or ResNet-50"
        )
    return layers


def has_changes(encoder: nn.Module) -> bool:
    return any(isinstance(module, LowRank) for module in encoder.modules())


def merged(encoder: nn.Module) -> nn.Module:
    """The encoder as timm knows it, changes added to its weights: a copy where there are any, else the encoder itself."""
    if not has_changes(encoder):
        return encoder
    encoder = copy.deepcopy(encoder)
    for module in list(encoder.modules()):
        if parametrize.is_parametrized(module, "weight"):
            weight = nn.Parameter(module.weight.detach())
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]  # torch's remover would also change the class, which copies share
            module.weight = weight
    return encoder
