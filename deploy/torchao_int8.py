"""INT8 by torchao, as an ONNX file: rounding in the exported graph, after training or with some more of it.

After training, observers see real images. With training (Jacob et al. 2018, arXiv 1712.05877) rounding is part of the
forward pass and its gradient goes straight through; what is learnt is the float model's own outputs, so no labels are needed
and an encoder is served like a classifier. BatchNorm is folded into the convolutions first, and stays as it is.
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
from deploy.portable import Portable

LR, MOMENTUM = 1e-3, 0.9  # of SGD, falling to nothing along a cosine


def write(portable: Portable, path: Path, batches: list[np.ndarray]) -> None:
    """After training.  batches: images as the portable module takes them, from which ranges are taken."""
    prepared, convert = _prepared(portable, training=False)
    with torch.no_grad():
        for images in batches:
            prepared(torch.from_numpy(images))
    runtime.write_onnx(portable, path, convert(prepared))


def write_trained(
    portable: Portable, path: Path, batches: Iterator[np.ndarray], steps: int, tick: Callable[[int], None] = lambda step: None
) -> list[float]:
    """With `steps` steps of training.  tick: told of each.  → the error of each step: the mean square of what the outputs
    are off, as a share of their variance, summed over outputs
    """
    prepared, convert = _prepared(portable, training=True)
    optimizer = torch.optim.SGD([p for p in prepared.parameters() if p.requires_grad], LR, MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    for step in range(steps):
        images = torch.from_numpy(next(batches))
        with torch.no_grad():
            targets = portable(images)
        loss = error(prepared(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(float(loss.detach()))
        tick(step + 1)
    runtime.write_onnx(portable, path, convert(prepared))
    return errors


def error(outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    return sum(F.mse_loss(o, t) / t.var().clamp_min(1e-12) for o, t in zip(outputs, targets, strict=True))


def _prepared(portable: Portable, training: bool):
    """(the graph with observers, or with rounding where it is to be trained; what makes it INT8)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        graph = runtime.program(portable).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=training))
        return prepare_pt2e(graph, quantizer), convert_pt2e
