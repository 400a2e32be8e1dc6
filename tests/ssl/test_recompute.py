"""Activation checkpointing: the same gradient, statistics and draws, with less kept. Oracle: the same encoder without it."""
import copy
import itertools
from functools import partial

import pytest
import torch
from commands import SMALL, run
from processes import on
from small_methods import batch, made
from timm.layers import DropPath
from torch import nn

from core import dropout, gradcache
from core.processes import wrap
from vision import encoders
from vision.build import checkpoint_blocks

PROGRESS = 0.4
ENCODERS = {
    "simclr": ["encoder=test_resnet", "image_size=16"],
    "dino": ["encoder=test_vit", "image_size=32"],
    "mae": [],
    "dinov2": [],
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The method twice, with dropout and drop path in its blocks: as it is, and checkpointed."""
    plain = made(name, *ENCODERS[name], dtype=torch.float64)
    for module in plain.encoder.modules():
        if hasattr(module, "drop_path1"):
            module.drop_path1 = DropPath(0.3)
        if hasattr(module, "mlp"):
            module.mlp.drop1 = nn.Dropout(0.2)
        if hasattr(module, "act2"):  # of a residual block
            module.act2 = nn.Sequential(module.act2, nn.Dropout(0.2))
    dropout.per_image(plain)
    other = copy.deepcopy(plain)
    checkpoint_blocks(other.encoder)
    return plain, other


def state(method: nn.Module) -> dict[str, torch.Tensor]:
    gradients = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    return gradients | method.state_dict()


def same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_statistics_and_draws_are_the_same(name):
    plain, other = pair(name)
    data = batch(name, dtype=torch.float64, size=32 if name == "dino" else None)
    assert other.state_dict().keys() == plain.state_dict().keys()
    for _ in range(2):  # torch's generator, which nothing here draws from, stays too
        before = torch.get_rng_state()
        for method in (plain, other):
            method(data, PROGRESS).loss.backward()
        assert torch.equal(torch.get_rng_state(), before)
    same(state(plain), state(other))
    assert any(isinstance(m, dropout.Dropout) for m in plain.encoder.modules()), "something was drawn"


def test_in_chunks_too():
    plain, other = pair("dino")
    data = batch("dino", dtype=torch.float64, size=32)
    for method in (plain, other):
        gradcache.backward(method, data, 4, PROGRESS, partial(torch.autocast, "cpu", enabled=False))
    same(state(plain), state(other))


def _on_two() -> list:
    plain, other = pair("simclr")
    for step in range(2):
        for method in (plain, other):
            method.zero_grad()
            model = wrap(method)
            model(batch("simclr", step, torch.float64), PROGRESS).loss.backward()
    return [state(plain), state(other)]


@pytest.mark.slow
def test_on_two_processes_with_batchnorm_over_both():
    for first, second in on(2, _on_two):
        same(first, second)


def kept(encoder: nn.Module, images: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in itertools.chain(encoder.parameters(), encoder.buffers())}
    found = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := tensor.untyped_storage()).data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = encoder(images)
    del z
    return sum(found.values())


@pytest.mark.parametrize(("name", "share"), [("vit_tiny_patch16_224", 0.2), ("resnet18", 0.7), ("convnext_atto", 0.6)])
def test_less_is_kept(name, share):
    encoder, images = encoders.create(name, 3, 64, "full").train(), torch.randn(2, 3, 64, 64)
    whole = kept(encoder, images)
    checkpoint_blocks(encoder)
    assert kept(encoder, images) < share * whole
    assert encoder(images).requires_grad
    assert kept(encoder.eval(), images) > 0.9 * whole or name == "resnet18", "in evaluation it is what it was"


@pytest.mark.slow
def test_a_run_is_the_same_bytes(tmp_path):
    for name, more in (("without", []), ("with", ["--checkpointing"])):
        ended = run(*SMALL, "--method=simclr", *more, f"--out={tmp_path / name}", logs=tmp_path / f"log-{name}")
        assert ended.code == 0, ended.err
    files = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("without", "with")]
    assert files[0] == files[1]


def test_mistakes_are_one_line(tmp_path):
    with_lenet = [word for word in SMALL if "encoder" not in word and "image_size" not in word]
    for words, expected in (
        ([*SMALL, "--compile"], "checkpointing=True: must be left out with compile"),
        ([*with_lenet, "--encoder=lenet5", "--image_size=28"], "encoder=lenet5 has no blocks"),
    ):
        ended = run(*words, "--method=simclr", "--checkpointing", f"--out={tmp_path / 'run'}", logs=tmp_path / "log")
        assert ended.code == 2
        assert expected in ended.line
