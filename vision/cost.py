"""What an encoder costs: parameters, multiply-adds, latency and memory, at its own input."""
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

CPU = torch.device("cpu")
WARMUP, TIMED = 5, 50  # forward passes before the clock counts, and those that it counts


def parameters(encoder: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in encoder.parameters()) / 1e6


def macs(encoder: nn.Module) -> float:
    """Multiply-adds of one image in millions: convolutions, matrix products and attention, as torch counts them.

    Counted without computing: on a copy whose tensors have shapes alone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state = {name: t.detach().to("meta") for name, t in (encoder.state_dict() | dict(encoder.named_buffers())).items()}
        was_training = encoder.training
        torch.func.functional_call(encoder.eval(), state, _image(encoder, 1, torch.device("meta")))
        encoder.train(was_training)
    return counter.get_total_flops() / 2e6


def latency(encoder: nn.Module, device: torch.device, batch: int = 1, timed: int = TIMED) -> dict[str, float]:
    """Milliseconds of a forward pass of `batch` images in evaluation mode: {"p50": …, "p95": …}.  The encoder stays there."""
    call, times = one_image(encoder, device, batch), []
    for i in range(WARMUP + timed):
        start = time.perf_counter()
        call()
        times += [time.perf_counter() - start] if i >= WARMUP else []
    times.sort()
    return {"p50": times[len(times) // 2] * 1e3, "p95": times[int(len(times) * 0.95)] * 1e3}


def one_image(encoder: nn.Module, device: torch.device = CPU, batch: int = 1) -> Callable[[], None]:
    """A forward pass of one image, or of a batch, in evaluation mode, to be timed.  The encoder stays on the device."""
    encoder = encoder.to(device).eval()
    images = _image(encoder, batch, device)

    def call() -> None:
        with torch.no_grad():
            encoder(images)
        _wait(device)

    return call


def memory(encoder: nn.Module, batch: int = 1) -> float:
    """MB (10⁶ bytes) that weights and, at the most, two neighboring layers' outputs take in a forward pass in float32.

    The floor of what a device must hold, not what an allocator happened to reserve: the same on every machine.
    """
    maps = [0, *output_sizes(encoder, batch)]
    largest = max((one + other for one, other in pairwise(maps)), default=0)
    return (sum(t.numel() for t in encoder.state_dict().values()) + largest) * 4 / 1e6


def output_sizes(encoder: nn.Module, batch: int = 1) -> list[int]:
    """Of each layer in the order of a forward pass, how many numbers it gives for a batch. A layer has no modules inside."""
    sizes = []

    def seen(module, inputs, output):
        if isinstance(output, torch.Tensor) and not list(module.children()):
            sizes.append(output.numel())

    handles = [module.register_forward_hook(seen) for module in encoder.modules()]
    was_training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()(_image(encoder, batch, next(encoder.parameters()).device))
    finally:
        encoder.train(was_training)
        for handle in handles:
            handle.remove()
    return sizes


def _image(encoder: nn.Module, batch: int, device: torch.device) -> torch.Tensor:
    images = torch.zeros(batch, *encoder.spec.shape, device=device)
    return images if device.type == "meta" else images.contiguous(memory_format=torch.channels_last)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
