"""Zero-cost proxies: scores of an untrained encoder that predict how good it will be after training. Higher is better.

Tests compare each with its paper's equation. How well each predicts kNN accuracy after contrastive pretraining, beside
parameters and multiply-adds, is in experiments/tabular.
"""
import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision import cost

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.PReLU)


def synflow(encoder: nn.Module) -> float:
    """log Σ_θ |θ ∂R/∂θ|, R the sum of the outputs of an image of ones, all weights made positive, norms left out.

    Tanaka, Kunin, Yamins, Ganguli 2020, arXiv 2006.05467, eq. 2, as a score (Abdelfattah et al. 2021, arXiv 2101.08134).
    """
    encoder = copy.deepcopy(encoder).double().eval()
    for name, module in list(encoder.named_modules()):
        if isinstance(module, NORMS) and name:
            encoder.set_submodule(name, _act_of(module))
    with torch.no_grad():
        for p in encoder.parameters():
            p.abs_()
    spec = encoder.spec
    encoder(torch.ones(1, *spec.shape, dtype=torch.float64)).sum().backward()
    flow = sum(float((p.detach() * p.grad).abs().sum()) for p in encoder.parameters() if p.grad is not None)
    return math.log(max(flow, 1e-300))


def _act_of(norm: nn.Module) -> nn.Module:
    """The activation that timm's norms carry."""
    return getattr(norm, "act", None) or nn.Identity()


def naswot(encoder: nn.Module, images: Tensor) -> float:
    """log |det K|, K_ij = how many activations agree on whether they are on for images i and j.  images: B,C,S,S

    Mellor, Turner, Storkey, Crowley 2021, arXiv 2006.04647, eqs. 2 and 3.
    """
    encoder = copy.deepcopy(encoder).train()
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add_agreements(module, inputs, output):
        on = (inputs[0].detach().flatten(1) > 0).double()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)

    for module in encoder.modules():
        if isinstance(module, ACTIVATIONS):
            if hasattr(module, "inplace"):
                module.inplace = False
            module.register_forward_hook(add_agreements)
    with torch.no_grad():
        encoder(images)
    return float(torch.linalg.slogdet(kernel)[1])


def zico(encoder: nn.Module, losses: Sequence[Callable[[], Tensor]]) -> float:
    """Σ_l log Σ_{θ in l} E|g| / std|g|, g the gradients of some batches, l the convolutions and linear layers.

    losses: each called once, a batch's loss of this very encoder, two at least.
    Li, Yang, Bhardwaj, Marculescu 2023, arXiv 2301.11300, eq. 14; here of a loss without labels.
    """
    layers = [m.weight for m in encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.requires_grad]
    batches = [torch.autograd.grad(loss(), layers, allow_unused=True) for loss in losses]
    score = 0.0
    for gradients in zip(*batches, strict=True):
        if gradients[0] is None:
            continue
        g = torch.stack([x.detach().flatten() for x in gradients]).double().abs()
        mean, std = g.mean(0), g.std(0, unbiased=False)
        ratio = (mean / std)[std > 0].sum()
        score += float(ratio.log()) if ratio > 0 else 0.0
    return score


def az(encoder: nn.Module, images: Tensor, seed: int = 0) -> dict[str, float]:
    """AZ-NAS's figures of a network: expressivity, progressivity, trainability and complexity; `az_score` joins them.

    Lee and Ham 2024, arXiv 2403.19232, §3. Of the outputs of the blocks: the entropy of the shares of their channels'
    covariance, Σ_l and the smallest rise from block to block; −σ − 1/σ + 2 of the Jacobian's estimated largest singular value
    σ, the mean over blocks; multiply-adds. images: B,C,S,S of noise.
    """
    encoder = copy.deepcopy(encoder).train()
    outputs: list[Tensor] = []
    for module in encoder.modules():  # in-place modules would overwrite the outputs that are kept
        if hasattr(module, "inplace"):
            module.inplace = False
    handles = [block.register_forward_hook(lambda m, i, o: outputs.append(o)) for block in blocks(encoder)]
    encoder(images)
    for handle in handles:
        handle.remove()
    maps = [_map(o) for o in outputs]
    entropies = [_entropy(m.detach()) for m in maps]
    rises = np.diff(entropies)
    steady = torch.Generator().manual_seed(seed)
    trainability = [_trainability(outputs[i - 1], outputs[i], steady) for i in range(1, len(outputs))]
    return {
        "expressivity": float(sum(entropies)),
        "progressivity": float(rises.min()) if len(rises) else 0.0,
        "trainability": float(np.mean(trainability)) if trainability else 0.0,
        "complexity": cost.macs(encoder),
    }


def az_score(networks: Sequence[dict[str, float]]) -> list[float]:
    """Σ over the figures of log(rank / m) among these m networks, rank m the best (AZ-NAS, eq. 10)."""
    m = len(networks)
    total = np.zeros(m)
    for name in ("expressivity", "progressivity", "trainability", "complexity"):
        values = np.array([figures[name] for figures in networks])
        ranks = np.array([(values <= v).sum() for v in values])  # ties share the better rank
        total += np.log(ranks / m)
    return total.tolist()


def blocks(encoder: nn.Module) -> list[nn.Module]:
    """The residual or transformer blocks of a timm model, in order."""
    modules = []
    for name in ("stages", "blocks", "layer1", "layer2", "layer3", "layer4"):
        for part in getattr(encoder, name, nn.Sequential()):
            modules += list(part) if isinstance(part, nn.Sequential) else [part]
    return modules


def _map(x: Tensor) -> Tensor:
    """Rows of channels: B,C,H,W or B,N,C → rows,C"""
    return x.movedim(1, -1).flatten(0, -2) if x.ndim == 4 else x.flatten(0, -2)


def _entropy(rows: Tensor) -> float:
    rows = rows.double() - rows.double().mean(0)
    shares = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0)
    shares = shares / shares.sum().clamp(min=1e-12)
    return float(-(shares * (shares + 1e-12).log()).sum())


def _trainability(before: Tensor, after: Tensor, generator: torch.Generator) -> float:
    """Of one block, by random signs sent back through it."""
    signs = torch.randint(2, after.shape, generator=generator).to(after.dtype) * 2 - 1
    back = torch.autograd.grad(after, before, signs, retain_graph=True)[0]
    if back.ndim == 4 and back.shape[2:] != signs.shape[2:]:
        (H, W), (h, w) = back.shape[2:], signs.shape[2:]
        stride = max(-(-H // h), -(-W // w))
        back = F.pixel_unshuffle(F.pad(back, (0, w * stride - W, 0, h * stride - H)), stride)
    ours, theirs = _map(back), _map(signs)
    sigma = float(torch.linalg.matrix_norm((ours.T @ theirs / len(theirs)).double(), 2))
    return -sigma - 1 / (sigma + 1e-6) + 2
