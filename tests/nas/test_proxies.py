"""Each proxy equals its paper's equation, written as loops; and looks without touching."""
import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from nas import proxies
from vision import encoders
from vision.encoders import Spec


def small(kind: str = "searched_resnet", **more) -> nn.Module:
    torch.manual_seed(0)
    arguments = dict(stages=(("basic", 1, 8, 3), ("basic", 1, 16, 3)), stem_width=8) | more
    if kind == "searched_mobile":
        arguments = dict(stages=((2, 1, 8, 3), (2, 1, 16, 3)), stem_width=8, head_width=32)
    if kind == "vit_tiny_patch16_224":
        arguments = dict(img_size=14, patch_size=2, embed_dim=16, depth=2, num_heads=2)
    return encoders.build(Spec(kind, 1, 14, "half" if kind != "vit_tiny_patch16_224" else "full", arguments))


IMAGES = torch.randn(6, 1, 14, 14, generator=torch.Generator().manual_seed(1))


class Chain(nn.Module):
    """Linear, ReLU, linear, on 1×3×3 images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.spec = Spec("chain", 1, 3)
        self.first, self.act, self.second = nn.Linear(9, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.second(self.act(self.first(x.flatten(1))))


def test_synflow_of_two_layers_is_twice_the_flow():
    chain = Chain()
    first, second = (layer.weight.detach().double().abs() for layer in (chain.first, chain.second))
    flow = float((second @ first).sum())  # R; each layer's Σ θ ∂R/∂θ is R
    assert proxies.synflow(chain) == pytest.approx(math.log(2 * flow), rel=1e-12)


def test_synflow_leaves_norms_out_and_takes_any_signs():
    encoder = small()
    flipped = copy.deepcopy(encoder)
    with torch.no_grad():
        for p in flipped.parameters():
            p.neg_()
        for m in flipped.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_var.fill_(7)
    assert proxies.synflow(encoder) == pytest.approx(proxies.synflow(flipped), rel=1e-12)


def test_naswot_counts_agreements():
    chain = Chain()
    x = torch.randn(5, 1, 3, 3)
    on = (chain.first(x.flatten(1)) > 0).tolist()
    kernel = [[sum(a == b for a, b in zip(on[i], on[j], strict=True)) for j in range(5)] for i in range(5)]
    sign, expected = np.linalg.slogdet(np.array(kernel, float))
    found = proxies.naswot(chain, x)
    assert found == pytest.approx(expected, rel=1e-9) if sign else found == -math.inf


def test_zico_is_mean_over_deviation_of_gradients():
    chain = Chain()
    batches = [torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    expected = 0.0
    for layer in (chain.first, chain.second):
        gradients = [torch.autograd.grad(chain(b).square().mean(), layer.weight)[0].double().abs() for b in batches]
        total = 0.0
        for i in range(layer.weight.shape[0]):
            for j in range(layer.weight.shape[1]):
                g = [float(x[i, j]) for x in gradients]
                mean = sum(g) / 3
                std = math.sqrt(sum((v - mean) ** 2 for v in g) / 3)
                total += mean / std if std > 0 else 0.0
        expected += math.log(total)
    found = proxies.zico(chain, [lambda b=b: chain(b).square().mean() for b in batches])
    assert found == pytest.approx(expected, rel=1e-6)


def test_az_of_white_features_is_the_log_of_their_number():
    rows = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(3))
    assert proxies._entropy(rows) == pytest.approx(math.log(8), abs=0.01)  # 20,000 rows: shares within 1 % of an eighth
    assert proxies._entropy(rows[:, :1] * torch.ones(8)) == pytest.approx(0, abs=1e-6)


def test_az_trainability_is_best_where_signs_come_back_as_they_went():
    x = torch.randn(4, 8, 5, 5, requires_grad=True)
    steady = torch.Generator().manual_seed(0)
    assert proxies._trainability(x, x * 1.0, steady) == pytest.approx(0, abs=0.8)  # σ near 1: −1 − 1 + 2
    assert proxies._trainability(x, x * 100.0, steady) < -90


def test_az_joins_ranks():
    found = [dict(expressivity=e, progressivity=0.0, trainability=t, complexity=1.0) for e, t in ((1, 2), (2, 1), (3, 3))]
    logs = [math.log(1 / 3) + math.log(2 / 3), math.log(2 / 3) + math.log(1 / 3), 0.0]
    assert proxies.az_score(found) == pytest.approx(logs)


@pytest.mark.parametrize("kind", ["searched_resnet", "searched_mobile", "vit_tiny_patch16_224"])
def test_proxies_look_without_touching(kind):
    encoder = small(kind)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [m.training for m in encoder.modules()]
    scores = [proxies.synflow(encoder), proxies.naswot(encoder, IMAGES), *proxies.az(encoder, IMAGES).values()]
    assert all(math.isfinite(s) for s in scores), scores
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert modes == [m.training for m in encoder.modules()]
    assert all(p.grad is None for p in encoder.parameters())
    assert len(proxies.blocks(encoder)) == 2


def test_a_wider_network_flows_more():
    narrow, wide = small(), small(stages=(("basic", 1, 16, 3), ("basic", 1, 32, 3)))
    assert proxies.synflow(wide) > proxies.synflow(narrow)
