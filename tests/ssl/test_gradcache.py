"""GradCache: the gradient of the whole batch from chunks, for every method, on one process and on two.

float64, so that what is left is rounding. Encoders without BatchNorm, whose statistics would be a chunk's, except where
the test is about just that; heads see the whole batch, with BatchNorm and all.
"""
from dataclasses import replace
from functools import partial

import pytest
import torch
from processes import on
from small_methods import NAMES, B, batch, made, without_batchnorm, words_of
from torch import Tensor, nn

from core import dropout, gradcache, loop
from core.batchnorm import split_batchnorm
from core.method import Batch, Method, Output
from core.processes import wrap
from ssl.method.moco_v3 import MoCoV3
from ssl.method.simclr import SimCLR

PROGRESS = 0.4
plain = partial(torch.autocast, "cpu", enabled=False)
double = torch.float64


def gradient(method: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


def whole(method: Method, data: Batch) -> tuple[Tensor, Tensor]:
    loss = wrap(method)(data, PROGRESS).loss
    loss.backward()
    return loss.detach(), gradient(method)


def chunked(method: Method, data: Batch, chunk: int) -> tuple[Tensor, Tensor]:
    loss = gradcache.backward(method, data, chunk, PROGRESS, plain).loss
    return loss.detach(), gradient(method)


def off(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """The largest relative distance of loss and gradient."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_chunks_give_the_gradient_of_the_whole_batch(name):
    make = partial(made, name, *without_batchnorm(name), dtype=double)
    data = batch(name, dtype=double, size=words_of(name, *without_batchnorm(name)).image_size)
    expected = whole(make(), data)
    for chunk in (4, 8):
        method = make()
        output = gradcache.backward(method, data, chunk, PROGRESS, plain)
        assert off((output.loss.detach(), gradient(method)), expected) < 1e-10
        other = make()
        whole_output = other(data, PROGRESS)
        method.after_step(output.staged, PROGRESS)  # teacher, queue and center move as after a whole batch
        other.after_step(whole_output.staged, PROGRESS)
        for (key, value), after in zip(method.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(value, after, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("kind", ["simclr", "moco_v3"])
def test_a_batch_of_4096_in_chunks_of_64(kind):
    """A fixed random network of 3×8×8 images; the similarities of 8192 embeddings are never one matrix."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 24))
    encoder.dim = 24
    method = {
        "simclr": lambda: SimCLR(encoder, hidden=32, dim=16, temperature=0.1),
        "moco_v3": lambda: MoCoV3(encoder, 32, 16, 0.2, (0.99, 1.0), 2, False, False),
    }[kind]().double()
    views = [torch.randn(4096, 3, 8, 8, dtype=double) for _ in range(2)]
    data = Batch(views, torch.arange(4096))
    expected = whole(method, data)
    method.zero_grad()
    assert len(data.split(64)) == 64
    assert off(chunked(method, data, 64), expected) < 1e-10
    method.zero_grad()
    pieces = [whole(method, piece) for _, piece in loop.pieces(data, 64)]  # gradients add up
    assert off((pieces[0][0], pieces[-1][1] / 64), expected) > 1e-2  # accumulation is another thing


def test_an_encoders_batchnorm_sees_a_chunk_and_moves_its_statistics_once():
    """The gradient is then that of split BatchNorm, and so are the running statistics: as one pass leaves them."""
    data = batch("simclr", dtype=double)
    split, method = made("simclr", dtype=double), made("simclr", dtype=double)
    split_batchnorm(split.encoder, 4)
    split.traits = method.traits = replace(method.traits, joint_views=False)  # groups of a view
    expected = whole(split, data)
    assert off(chunked(method, data, B // 4), expected) < 1e-10
    heads = [m.running_mean for m in method.projector.modules() if isinstance(m, nn.BatchNorm1d)]
    theirs = [m.running_mean for m in split.projector.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(heads, theirs, strict=True))
    counted = [m.num_batches_tracked.item() for m in method.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(counted) == {2 * 4}  # two views of four chunks, not twice that


@pytest.mark.parametrize("per_image", [False, True])
def test_dropout_falls_alike_in_both_passes(per_image):
    """Else the features' gradient would go back through other units than those that made them."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 48), nn.Dropout(0.5), nn.Linear(48, 24))
    encoder.dim = 24
    method = SimCLR(encoder, 32, 16, 0.1).double()
    if per_image:
        dropout.per_image(method)
    data = Batch([torch.randn(16, 3, 8, 8, dtype=double) for _ in range(2)], torch.arange(16))
    masks = []
    encoder[2].register_forward_hook(lambda _, inputs, out: masks.append((out == 0).clone()))
    chunked(method, data, 8)
    assert len(masks) == 4
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])


def test_dropout_of_images_makes_chunks_the_whole_batch():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 48), nn.Dropout(0.5), nn.Linear(48, 24))
    encoder.dim = 24
    method = dropout.per_image(SimCLR(encoder, 32, 16, 0.1).double())
    data = Batch([torch.randn(16, 3, 8, 8, dtype=double) for _ in range(2)], torch.randperm(100)[:16], step=3, seed=4)
    expected = whole(method, data)
    for chunk in (4, 8):
        method.zero_grad()
        assert off(chunked(method, data, chunk), expected) < 1e-10


class Tokens(Method):
    """Features of every view, and a tensor of another shape beside them; the loss mixes images."""

    def __init__(self):
        super().__init__()
        self.encoder, self.patches = nn.Linear(12, 5), nn.Linear(3, 2)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = torch.stack([self.encoder(view.flatten(1)) for view in batch.views], 1)
        return features, self.patches(batch.views[0].flatten(2).mT)  # B,V,5 and B,4,2

    def objective(self, features: tuple[Tensor, Tensor], targets: None, progress: float) -> Output:
        first, patches = features
        return Output((first.flatten(1) @ first.flatten(1).T).logsumexp(1).mean() + patches.mean(0).square().sum())


@pytest.mark.parametrize("chunk", [3, 4, 8])
def test_each_of_several_features_sends_its_gradient_back(chunk):
    torch.manual_seed(0)
    method, data = Tokens().double(), Batch([torch.randn(8, 3, 2, 2, dtype=double) for _ in range(2)], torch.arange(8))
    expected = whole(method, data)
    method.zero_grad()
    assert off(chunked(method, data, chunk), expected) < 1e-12


@pytest.mark.parametrize("name", ["simclr", "dino_vit", "swav"])
def test_chunks_in_bf16_are_the_whole_batch_in_bf16(name):
    """Features are rounded to 8 bits alike in both; what differs is the order of sums in the weights' gradients."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    data = batch(name, size=32)
    method = made(name, *without_batchnorm(name))
    with autocast():
        loss = method(data, PROGRESS).loss
    loss.backward()
    expected = loss.detach(), gradient(method)
    method.zero_grad()
    loss = gradcache.backward(method, data, 4, PROGRESS, autocast).loss
    assert loss.dtype == torch.float32
    assert off((loss.detach(), gradient(method)), expected) < 2**-7


CASES = [name for name in NAMES if not name.endswith("_vit")]


def on_each_process(chunk: int | None) -> list[tuple[Tensor, Tensor]]:
    found = []
    for name in CASES:
        words = without_batchnorm(name)
        method, data = made(name, *words, dtype=double), batch(name, dtype=double, size=words_of(name, *words).image_size)
        found.append(chunked(method, data, chunk) if chunk else whole(method, data))
    return found


@pytest.mark.long
def test_two_processes_in_chunks_are_one_process_at_once():
    several = on(2, on_each_process, 4)
    for i, (name, expected) in enumerate(zip(CASES, on_each_process(None), strict=True)):
        (loss_0, gradient_0), (loss_1, gradient_1) = several[0][i], several[1][i]
        assert torch.equal(gradient_0, gradient_1)
        assert off(((loss_0 + loss_1) / 2, gradient_0), expected) < 1e-10, name
