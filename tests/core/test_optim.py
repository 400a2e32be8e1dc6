"""LARS equals its loop and timm's; SGD and AdamW are torch's; parameters are in the right groups; resume is exact."""
import copy
import io

import pytest
import timm
import torch
from timm.optim import Lamb, Lars, Muon
from torch import nn

from core import optim
from core.method import Traits
from core.optim import LARS, parameter_groups
from core.settings import OptimSettings
from vision.heads import mlp

ROUNDING = {"rtol": 1e-5, "atol": 1e-7}  # a few float32 steps, summed in another order


def build(module: nn.Module, name: str, lr: float, weight_decay: float, **more) -> torch.optim.Optimizer:
    return optim.build(module, OptimSettings(name=name, weight_decay=weight_decay, **more), lr)


def small_net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.GroupNorm(1, 5)],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(5), nn.Linear(5, 4)],
    )


def train(net: nn.Module, optimizer, steps: int, start: int = 0, layout=torch.channels_last) -> list[torch.Tensor]:
    """A few steps on inputs that depend on the step alone, with a learning rate that moves as the loop moves it."""
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (step + 1)
        net(torch.randn(4, 3, 9, 9).to(memory_format=layout)).square().sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in net.parameters()]


# ---- LARS


def lars_loop(params, gradients, momenta, lr, momentum, weight_decay, eta, clip) -> None:
    """Local rate, momentum, step: one tensor at a time, in float64."""
    for w, g, m in zip(params, gradients, momenta, strict=True):
        step = g + weight_decay * w
        rate = eta * w.norm() / step.norm() if w.norm() > 0 and step.norm() > 0 else 1.0
        if clip:
            rate = min(rate / lr, 1.0)
        m[:] = momentum * m + rate * step
        w -= lr * m


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.001, 0.02, 50.0])  # the last is above lr: where clip caps
def test_lars_is_the_loop(eta, clip):
    params = [torch.randn(4, 3), torch.zeros(2, 2), torch.randn(5, 1) * 1e-3]
    ours = [nn.Parameter(p.clone()) for p in params]
    reference, momenta = [p.double() for p in params], [torch.zeros_like(p).double() for p in params]
    optimizer = LARS(ours, lr=0.1, momentum=0.9, weight_decay=0.01, eta=eta, clip=clip)
    for step in range(4):
        gradients = [torch.randn_like(p) for p in params]
        if step == 2:
            gradients[0].zero_()
        lr = optimizer.param_groups[0]["lr"] = 0.1 * (step + 1)
        for p, g in zip(ours, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        lars_loop(reference, [g.double() for g in gradients], momenta, lr, 0.9, 0.01, eta, clip)
        for p, r in zip(ours, reference, strict=True):
            torch.testing.assert_close(p.detach().double(), r, **ROUNDING)


@pytest.mark.parametrize("clip", [False, True])
def test_lars_is_timms_without_weight_decay(clip):
    """With decay the two differ by design: timm adds norms as the paper does, we take the norm of the sum."""
    net, twin = small_net(), small_net()
    peer = Lars(twin.parameters(), lr=1.0, momentum=0.9, trust_coeff=0.02, trust_clip=clip, always_adapt=True)
    ours = train(net, LARS(net.parameters(), lr=1.0, momentum=0.9, eta=0.02, clip=clip), 4)
    for mine, theirs in zip(ours, train(twin, peer, 4), strict=True):
        torch.testing.assert_close(mine, theirs, **ROUNDING)


def test_lars_leaves_biases_and_norms_to_plain_sgd():
    net, twin = small_net(), small_net()
    train(net, build(net, "lars", 0.1, weight_decay=0.5), 1)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1, 0.9), 1)
    moved_alike = [torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True)]
    # conv, norm γ β, conv, bias, norm γ β, norm γ β, linear, bias
    assert moved_alike == [False, True, True, False, True, True, True, True, True, False, True]


def test_lars_at_learning_rate_zero_moves_nothing():
    """The first step of a warm-up."""
    net = small_net()
    before = [p.clone() for p in net.parameters()]
    optimizer = build(net, "lars", 0.0, 1e-4, lars_clip=True)
    net(torch.randn(4, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


# ---- groups


def named_groups(net: nn.Module, decay_all: bool = False) -> tuple[set[str], set[str]]:
    names = {id(p): n for n, p in net.named_parameters()}
    groups = {g["adapt"]: {names[id(p)] for p in g["params"]} for g in parameter_groups(net, 0.1, decay_all)}
    return groups[True], groups[False]


def test_groups_of_a_resnet():
    net = nn.Sequential(timm.create_model("resnet18", num_classes=0), mlp([512, 64, 16], last_norm="scale"))
    weights, plain = named_groups(net)
    assert len(weights) == 20 + 2  # convolutions; the head's linear layers
    assert all(net.get_parameter(n).ndim > 1 for n in weights)
    assert len(plain) == 20 * 2 + 3  # γ and β of each norm; the head's two norms, the last without its frozen β
    assert "1.4.bias" not in weights | plain


def test_groups_of_a_transformer():
    """By type and ndim: class token and positions decay, as in MoCo v3's code; norms and biases do not."""
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, init_values=0.1)
    weights, plain = named_groups(net)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= weights
    assert {"norm.weight", "norm.bias", "blocks.0.norm1.weight", "blocks.0.ls1.gamma", "patch_embed.proj.bias"} <= plain
    assert weights | plain == {n for n, _ in net.named_parameters()}
    assert not weights & plain


def test_groups_tell_norms_by_type_even_where_they_hold_tables_and_leave_frozen_ones_out():
    net = nn.Sequential(nn.LayerNorm([3, 4]), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    net[2].requires_grad_(False)
    assert named_groups(net) == ({"1.weight"}, {"0.weight", "0.bias"})


def test_decay():
    net = small_net()
    assert [g["weight_decay"] for g in parameter_groups(net, 0.1)] == [0.1, 0.0]
    assert [g["weight_decay"] for g in parameter_groups(net, 0.1, decay_all=True)] == [0.1, 0.1]


# ---- torch's own, fused

KINDS = {
    "sgd": lambda net: torch.optim.SGD(parameter_groups(net, 0.1), 0.05, 0.9, foreach=False),
    "adamw": lambda net: torch.optim.AdamW(parameter_groups(net, 0.1), 0.05, (0.9, 0.95), foreach=False),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", KINDS)
def test_sgd_and_adamw_are_torchs(name, layout):
    """Fused kernels take a gradient to lie in memory as its parameter does: here it must, in either layout."""
    net, twin = (small_net().to(memory_format=layout) for _ in range(2))
    ours = train(net, build(net, name, 0.05, 0.1, betas=(0.9, 0.95)), 4, layout=layout)
    theirs = train(twin, KINDS[name](twin), 4, layout=layout)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)  # AdamW divides by √v, small at first


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_lamb_and_muon_are_timms_without_decay_on_biases_and_norms(name):
    net, twin = small_net(), small_net()
    plain = [p for p in twin.parameters() if p.ndim < 2]
    weights = [p for p in twin.parameters() if p.ndim > 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    if name == "lamb":
        peer = Lamb(groups, 0.05, betas=(0.9, 0.95), max_grad_norm=None)
    else:
        groups[1]["use_fallback"] = True
        peer = Muon(groups, 0.05, momentum=0.9, nesterov=True, betas=(0.9, 0.95))
    before = [p.clone() for p in net.parameters()]
    ours = train(net, build(net, name, 0.05, 0.1, betas=(0.9, 0.95)), 4)
    for mine, theirs, old in zip(ours, train(twin, peer, 4), before, strict=True):
        torch.testing.assert_close(mine, theirs, **ROUNDING)
        assert not torch.equal(mine, old)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_same_again_and_resumed_is_the_same_bytes(name):
    net = small_net().to(memory_format=torch.channels_last)
    start, twin = copy.deepcopy(net), copy.deepcopy(net)
    whole = train(net, build(net, name, 0.05, 0.1), 5)
    assert all(torch.equal(a, b) for a, b in zip(whole, train(twin, build(twin, name, 0.05, 0.1), 5), strict=True))

    optimizer = build(start, name, 0.05, 0.1)
    train(start, optimizer, 2)
    file = io.BytesIO()
    torch.save({"method": start.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = small_net().to(memory_format=torch.channels_last)
    fresh.load_state_dict(saved["method"])
    optimizer = build(fresh, name, 0.05, 0.1)
    optimizer.load_state_dict(saved["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(whole, train(fresh, optimizer, 3, start=2), strict=True))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="lars, sgd, adamw, lamb, muon"):
        build(small_net(), "adam", 0.1, 0.0)


class Parts(nn.Module):
    """Two linear layers, the second at a rate that does not decay, the third at a tenth."""

    traits = Traits(constant_lr=("second",), lr_scale={"third": 0.1})

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))


def test_rates_and_decays_of_parts_follow_the_schedule_each_in_its_way():
    module = Parts()
    optimizer = build(module, "sgd", 0.8, 0.1, bias_scale=0.5)
    optim.schedule(optimizer, 0.2, 0.3)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: (of[id(p)]["lr"], of[id(p)]["weight_decay"]) for name, p in module.named_parameters()}
    assert rates == {
        "first.weight": (0.2, 0.3),
        "first.bias": (0.1, 0.0),
        "second.weight": (0.8, 0.3),
        "second.bias": (0.4, 0.0),
        "third.weight": (pytest.approx(0.02), 0.3),
        "third.bias": (pytest.approx(0.01), 0.0),
    }
    optim.schedule(optimizer, 0.1)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}  # stays


def test_a_constant_rate_outlives_a_checkpoint():
    first, second = build(Parts(), "sgd", 0.8, 0.1), build(Parts(), "sgd", 0.4, 0.1)
    second.load_state_dict(first.state_dict())
    optim.schedule(second, 0.2)
    assert sorted({group["lr"] for group in second.param_groups}) == pytest.approx([0.02, 0.2, 0.8])


def test_names_reach_modules_and_parameters_and_the_longest_wins():
    class Parts(nn.Module):
        traits = Traits(lr_scale={"body": 0.5, "body.1": 0.25, "token": 0.1}, unfreeze_at={"body": 0.5})

        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Parameter(torch.zeros(2, 2)), nn.Linear(2, 2)
            self.body = nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)))  # body.10 is not inside body.1

    module = Parts()
    optimizer = build(module, "sgd", 1.0, 0.0)
    for progress, share in ((0.4, 0.0), (0.5, 1.0)):
        optim.schedule(optimizer, 2.0, None, progress)
        rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates[module.body[0].weight] == rates[module.body[10].weight] == 1.0 * share
        assert rates[module.body[1].weight] == 0.5 * share
        assert (rates[module.token], rates[module.head.weight]) == (0.2, 2.0)
    Parts.traits = Traits(unfreeze_at={"bodi": 0.5})
    with pytest.raises(AssertionError, match="bodi"):
        build(module, "sgd", 1.0, 0.0)
