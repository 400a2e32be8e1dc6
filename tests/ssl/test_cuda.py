"""On a GPU every method computes what it computes on a CPU, whole and in chunks, and its step runs to the end."""
from functools import partial

import pytest
import torch
from small_methods import NAMES, batch, made
from torch import Tensor, nn

from core import gradcache, optim
from core.method import Batch
from core.settings import OptimSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PROGRESS = 0.4
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact_products():
    """float32 products in float32, not TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_gpu(data: Batch) -> Batch:
    """As loaders hand it over: views and labels on the device, the rest where it was."""
    return Batch([view.to(DEVICE) for view in data.views], data.indices, data.labels.to(DEVICE))


def gradient(method: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in method.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_the_cpus(name):
    """float64, so that what is left is rounding."""
    data = batch(name, dtype=torch.float64)
    here, there = made(name, dtype=torch.float64), made(name, dtype=torch.float64).to(DEVICE)
    losses = [here(data, PROGRESS).loss, there(on_gpu(data), PROGRESS).loss]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=1e-9, atol=0)
    assert (gradient(there) - gradient(here)).norm() < 1e-8 * gradient(here).norm()


@pytest.mark.parametrize("name", NAMES)
def test_steps_in_bf16_whole_and_in_chunks_stay_finite(name):
    autocast = partial(torch.autocast, "cuda", torch.bfloat16)
    method = made(name).to(DEVICE, memory_format=torch.channels_last)
    optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.0), 1e-3)
    for step in range(4):
        data = on_gpu(batch(name, step))
        if step % 2:
            output = gradcache.backward(method, data, 8, PROGRESS, autocast)
        else:
            with autocast():
                output = method(data, PROGRESS)
            output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(output.staged, PROGRESS)
    assert all(value.isfinite().all() for value in method.state_dict().values() if value.is_floating_point())
