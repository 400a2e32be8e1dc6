"""Optimizers and their parameter groups."""
import difflib
from collections.abc import Collection

import torch
from timm import optim as timm_optim
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from core.processes import is_rows
from core.settings import OptimSettings

OPTIMIZERS = ("lars", "sgd", "adamw", "lamb", "muon")
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: You, Gitman, Ginsburg 2017 (arXiv 1708.03888), momentum on the scaled step.

    Each tensor's gradient, weight decay included, is multiplied by eta·‖w‖ / ‖g + wd·w‖, as in the code of SimCLR and
    MoCo v3 (the paper's eq. 6 has ‖g‖ + wd·‖w‖ below). With `clip` that rate may only shrink the step: it is divided
    by lr and capped at 1 (the LARC of NVIDIA's apex, which CIFAR recipes use). Groups with `adapt=False` (biases and
    norms) take plain momentum SGD.
    """

    def __init__(self, params, lr: float, momentum=0.9, weight_decay=0.0, eta=0.001, clip=False, adapt=True):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"eta": eta, "clip": clip, "adapt": adapt})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            if group["adapt"]:
                torch._foreach_mul_(gradients, self._rates(params, gradients, group))
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])

    @staticmethod
    def _rates(params, gradients, group) -> list[torch.Tensor]:
        weights = torch.stack(torch._foreach_norm(params))
        steps = torch.stack(torch._foreach_norm(gradients))
        rates = group["eta"] * weights / steps
        if group["clip"]:
            rates = (rates / max(group["lr"], 1e-12)).clamp(max=1)
        return list(torch.where((weights > 0) & (steps > 0), rates, 1).unbind())


def parameter_groups(
    module: nn.Module, weight_decay: float, decay_all: bool = False, bias_scale: float = 1.0, peak_lr: float | None = None,
    no_decay: Collection[str] = (),
) -> list[dict]:
    """Trainable parameters in groups: weights, and what neither decays nor is rescaled by LARS.

    The latter are every parameter of a normalisation layer and every tensor of fewer than two dimensions, by type
    and ndim, never by name; `bias_scale` multiplies their learning rate. A transformer's class token and learnt
    positions are tables of three dimensions and so count as weights, as in MoCo v3's code. `decay_all` decays them too
    (MoCo v1 and v2). Of the module's traits (core/method.py) `constant_lr` names submodules that keep `peak_lr` throughout;
    `lr_scale` gives some a share of it, and `unfreeze_at` none before so much of the run is done; over the share `ramp` of the
    run their rate then rises linearly.

    no_decay: last parts of names, such as pos_embed, of weights that do not decay either; their rate is as other weights'.
    Raises ValueError for one that no parameter has.
    """
    norms = {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    traits = getattr(module, "traits", None)
    constant = dict.fromkeys(getattr(traits, "constant_lr", ()), True)
    scales, unfreeze_at = getattr(traits, "lr_scale", {}), getattr(traits, "unfreeze_at", {})
    ramps = getattr(traits, "ramp", {})
    named = [name for name, _ in module.named_parameters()]
    for name in (*constant, *scales, *unfreeze_at, *ramps):
        assert any(_inside(parameter, name) for parameter in named), f"{name} has no parameter"
    for name in no_decay:
        if not any(parameter.rpartition(".")[2] == name for parameter in named):
            near = difflib.get_close_matches(name, {parameter.rpartition(".")[2] for parameter in named}, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else "; leave it out"
            raise ValueError(f"optim.no_decay={','.join(no_decay)}: no parameter is called {name}{hint}")
    groups: dict[tuple[bool, bool, float, float, float, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            plain = id(p) in norms or p.ndim < 2
            late = _of(unfreeze_at, name, 0.0), _of(ramps, name, 0.0)
            spared = name.rpartition(".")[2] in no_decay
            kind = plain, _of(constant, name, False), _of(scales, name, 1.0), *late, spared
            groups.setdefault(kind, []).append(p)
    return [
        {
            "params": params,
            "weight_decay": 0.0 if spared or (plain and not decay_all) else weight_decay,
            "decays": not spared and (decay_all or not plain),
            "adapt": not plain,
            "lr_scale": scale * (bias_scale if plain else 1.0),
            "constant_lr": peak_lr if is_constant else None,
            "unfreeze_at": start,
            "ramp": ramp,
        }
        for (plain, is_constant, scale, start, ramp, spared), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def _of(table: dict, parameter: str, default):
    """A parameter's value in a table of submodules and parameters: that of the longest name that it lies in."""
    names = [name for name in table if _inside(parameter, name)]
    return table[max(names, key=len)] if names else default


def _inside(parameter: str, name: str) -> bool:
    return parameter == name or parameter.startswith(f"{name}.")


def frozen_parameters(module: nn.Module, optimizer: Optimizer) -> list[tuple[float, list[nn.Parameter]]]:
    """(progress before which they are frozen, parameters), as a module's `traits.frozen_until` names them.

    torch's fused SGD wants all of a group's momenta or none: those of frozen ones begin as zeros, which is the same.
    """
    names = getattr(getattr(module, "traits", None), "frozen_until", {})
    named = list(module.named_parameters())
    found = [(until, [p for parameter, p in named if _inside(parameter, name)]) for name, until in names.items() if until > 0]
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        for p in (p for _, held in found for p in held if p not in optimizer.state):
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return found


def parameters_by_module(module: nn.Module) -> list[list[nn.Parameter]]:
    """Trainable parameters of each direct child of a module, and its own."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            found.setdefault(name.partition(".")[0] if "." in name else "", []).append(p)
    return list(found.values())


def schedule(optimizer: Optimizer, lr: float, weight_decay: float | None = None, progress: float = 0.0) -> None:
    """Give every group of `parameter_groups` its learning rate and, unless None, its weight decay."""
    for group in optimizer.param_groups:
        base = group.get("constant_lr")
        group["lr"] = (lr if base is None else base) * group.get("lr_scale", 1.0) * _awake(progress, group)
        if weight_decay is not None and group.get("decays", True):
            group["weight_decay"] = weight_decay


def _awake(progress: float, group: dict) -> float:
    """The share of its rate that a group has at this progress."""
    since = progress - group.get("unfreeze_at", 0.0)
    return min(1.0, since / ramp) if (ramp := group.get("ramp", 0.0)) and since >= 0 else since >= 0


def build(module: nn.Module, settings: OptimSettings, lr: float) -> Optimizer:
    """The optimizer of these settings, over the parameters where they now are (move the module first).  lr: the peak

    Fused kernels read a tensor once: on a CPU core AdamW 4×, SGD 1.6× as fast. They take a gradient to lie in memory as
    its parameter does, which autograd sees to.
    """
    o = settings
    groups = parameter_groups(module, o.weight_decay, o.decay_all, o.bias_scale, lr, o.no_decay)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])
    match o.name:
        case "lars":
            return LARS(groups, lr, o.momentum, eta=o.eta, clip=o.lars_clip)
        case "sgd":
            sharded = any(is_rows(p) for g in groups for p in g["params"])  # DTensors have no such kernel
            return torch.optim.SGD(groups, lr, o.momentum, fused=fused and not sharded)
        case "adamw":
            return torch.optim.AdamW(groups, lr, tuple(o.betas), fused=fused)
        case "lamb":  # You et al. 2019, arXiv 1904.00962; the loop clips
            return timm_optim.Lamb(groups, lr, betas=tuple(o.betas), max_grad_norm=None)
        case "muon":  # Jordan et al. 2024; AdamW's rates (Liu et al. 2025, arXiv 2502.16982); AdamW on biases and norms
            for group in groups:
                group["use_fallback"] = not group["adapt"]
            return timm_optim.Muon(groups, lr, momentum=o.momentum, nesterov=True, betas=tuple(o.betas))
    raise ValueError(f"optim.name={o.name}: there are {', '.join(OPTIMIZERS)}")
