"""What is trained and what is not, to the bit; one process and several; timm's layer-wise rates."""
import contextlib

import pytest
import torch
from processes import on
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from core import gradcache, optim
from core.batchnorm import sync_batchnorm
from core.method import Batch
from core.processes import average_gradients, local_rows, world_size
from core.settings import OptimSettings
from linear_eval.classifier import Classifier
from vision import encoders

K, B = 4, 16
COUNTS = torch.tensor([5, 3, 7, 1])


def made(dtype=torch.float64, name="test_resnet", **settings) -> Classifier:
    torch.manual_seed(1)
    method = Classifier(encoders.create(name, 1, 16 if "resnet" in name else 32), COUNTS, 0, **settings)
    for module in list(method.modules()):  # SiLU: rounding cannot open a unit on one side only
        for child in [n for n, m in module.named_children() if isinstance(m, nn.ReLU)]:
            setattr(module, child, nn.SiLU())
    if world_size() > 1 and method.trains != "head":
        sync_batchnorm(method)
    return method.to(dtype)


def batch(step: int = 0, size: int = 16) -> Batch:
    """This process's rows of a step's global batch."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(B, 1, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(K, (B,), generator=generator)
    indices = torch.randperm(100, generator=generator)[:B]
    return Batch([local_rows(images)], local_rows(indices), local_rows(labels), epoch=step)


def steps(method: Classifier, count: int, start: int = 0, total: int = 10) -> None:
    optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.05), 0.01)
    for step in range(start, start + count):
        optim.schedule(optimizer, 0.01, None, step / total)
        method(batch(step), step / total).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


def test_a_frozen_encoder_does_not_move_by_a_bit_and_its_batchnorm_neither():
    method = made(trains="head", dropout=0.2, mixup=0.3)
    before = state(method)
    steps(method.train(), 3)
    assert moved(before, method) == {"head.weight", "head.bias"}
    assert not any(p.requires_grad for p in method.encoder.parameters())
    assert not any(m.training for m in method.encoder.modules())


def test_all_of_it_moves():
    method = made()
    before = state(method)
    steps(method, 2)
    assert moved(before, method) == set(before)


def test_stages_open_from_the_top_and_wait_without_moving():
    """Until .5 of the run: test_resnet has a stem and four stages, so they open at .1, .2, .3, .4 and .5."""
    method = made(trains="staged", until=0.5)
    opened = []
    for step in range(6):
        before = state(method.encoder)
        steps(method, 1, start=step)
        opened.append({name.split(".")[0] for name in moved(before, method.encoder)})
    assert opened[0] == set()
    assert opened[1] == {"layer4"}
    assert opened[2] == {"layer4", "layer3"}
    assert opened[4] == {"layer4", "layer3", "layer2", "layer1"}
    assert opened[5] == {name.split(".")[0] for name in method.encoder.state_dict()}


def test_layer_wise_rates_are_timms():
    method = made(name="test_vit", layer_decay=0.6)
    ours = {p: group["lr_scale"] for group in optim.parameter_groups(method, 0.05) for p in group["params"]}
    peer = encoders.create("test_vit", 1, 32)
    groups = param_groups_layer_decay(peer, layer_decay=0.6)
    theirs = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for (name, mine), (_, other) in zip(method.encoder.named_parameters(), peer.named_parameters(), strict=True):
        assert ours[mine] == pytest.approx(theirs[id(other)] * 0.6), name  # a classifier above adds one layer
    assert ours[method.head.weight] == 1


# ---- processes, pieces, chunks


def gradients(settings: dict, way: str) -> Tensor:
    method, data = made(**settings), batch()
    if way == "chunks":
        for norm in (m for m in method.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eval()
        gradcache.backward(method, data, B // 4, 0.7, contextlib.nullcontext)
    else:
        for norm in (m for m in method.modules() if isinstance(m, nn.BatchNorm2d) and way == "whole, statistics kept"):
            norm.eval()
        method(data, 0.7).loss.backward()
        average_gradients([p for p in method.parameters() if p.requires_grad])
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


SETTINGS = {
    "plain": {},
    "weighted and focal": {"weighting": "balanced", "gamma": 2.0, "smoothing": 0.1},
    "mixed": {"mixup": 0.4, "cutmix": 1.0},
    "head": {"trains": "head"},
    "staged": {"trains": "staged"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_have_the_gradient_of_one(name):
    (one,), two = on(1, gradients, SETTINGS[name], "whole"), on(2, gradients, SETTINGS[name], "whole")
    assert torch.equal(two[0], two[1])
    assert (two[0] - one).norm() < 1e-6 * one.norm()  # the loss takes logits in float32, 6e-8 a number
    assert one.norm() > 0


@pytest.mark.parametrize("name", ["plain", "weighted and focal", "mixed"])
def test_chunks_have_the_gradient_of_the_whole(name):
    whole, chunked = gradients(SETTINGS[name], "whole, statistics kept"), gradients(SETTINGS[name], "chunks")
    assert (whole - chunked).norm() < 1e-6 * whole.norm()


def test_a_fixed_batch_is_learned():
    method, fixed = made(), batch()
    optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.0), 3e-3)
    losses = []
    for _ in range(25):
        output = method(fixed, 0.0)
        loss, scalars = output.loss, output.scalars
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert float(scalars["train_accuracy"]) > 80


@pytest.mark.parametrize(("settings", "said"), [
    ({"trains": "heads"}, "method.trains=heads"),
    ({"dropout": 1.0}, "method.dropout=1.0"),
    ({"layer_decay": 0.0}, "method.layer_decay=0.0"),
    ({"layer_decay": 0.5, "trains": "head"}, "method.layer_decay=0.5"),
    ({"gamma": -1.0}, "method.gamma=-1.0"),
    ({"mixup": float("inf")}, "method.mixup=inf"),
    ({"weighting": "some"}, "method.weighting=some"),
])
def test_what_no_one_means_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        made(**settings)
