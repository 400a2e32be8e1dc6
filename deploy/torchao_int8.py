"""INT8 by torchao, as an ONNX file: rounding in the exported graph, after training or with more training.

After training, observers see real images. With training (Jacob et al. 2018, arXiv 1712.05877) rounding is part of the
forward pass and the gradient passes straight through it. The targets are the float model's own outputs, so no labels are
needed, and an encoder trains like a classifier. BatchNorm is folded into the convolutions first and stays fixed.
"""
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deploy import runtime
from deploy.export_module import ExportModule

LR, MOMENTUM = 1e-3, 0.9  # of SGD; the rate falls to 0 along a cosine


def write(module: ExportModule, path: Path, batches: list[np.ndarray]) -> None:
    """Write the INT8 version without training.  batches: inputs of the module, for the ranges of activations"""
    prepared, convert = _prepared(module, training=False)
    with torch.no_grad():
        for images in batches:
            prepared(torch.from_numpy(images))
    runtime.write_onnx(module, path, convert(prepared))


def write_trained(
    module: ExportModule, path: Path, batches: Iterator[np.ndarray], steps: int, tick: Callable[[int], None] = lambda step: None
) -> list[float]:
    """Write the INT8 version after `steps` steps of training.  tick: called with the number of each step.

    → the error of each step: the outputs' mean squared error as a share of their variance, summed over outputs
    """
    prepared, convert = _prepared(module, training=True)
    optimizer = torch.optim.SGD([p for p in prepared.parameters() if p.requires_grad], LR, MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    for step in range(steps):
        images = torch.from_numpy(next(batches))
        with torch.no_grad():
            targets = module(images)
        loss = error(prepared(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(float(loss.detach()))
        tick(step + 1)
    runtime.write_onnx(module, path, convert(prepared))
    return errors


def error(outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    return sum(F.mse_loss(o, t) / t.var().clamp_min(1e-12) for o, t in zip(outputs, targets, strict=True))


def _prepared(module: ExportModule, training: bool):
    """(the graph with observers, or with rounding where it is trained; the function that converts it to INT8)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        graph = runtime.program(module).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=training))
        return prepare_pt2e(graph, quantizer), convert_pt2e
