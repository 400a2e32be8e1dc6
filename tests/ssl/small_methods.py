"""Every method of ssl/method/, found by listing the folder, made as ssl.pretrain makes it, at smoke size."""
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from core import cli
from core.batchnorm import sync_batchnorm
from core.method import Batch, Method
from core.processes import local_rows, world_size
from core.training import build_method
from ssl.pretrain import TOOL
from vision import encoders

FOLDER = Path(__file__).resolve().parents[2] / "ssl" / "method"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
VIT = [name for name in NAMES if "\nencoder: vit" in (FOLDER / f"{name}.yaml").read_text()]
ON_TOKENS = [name for name in VIT if not name.endswith("_vit")]  # which no convolutional encoder serves
B = 16
SMALLER = {"hidden": 32, "dim": 16, "predictor_hidden": 32, "queue_size": 48, "bn_splits": 4, "prototypes": 20, "slices": 24}
SMALLER |= {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "gram_at": "[0.0,0.5,0.9]"}


@cache
def words_of(name: str, *more: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    words = [f"method={name}", f"batch_size={B}", "precision=fp32"]
    words += [f"method.{word}={value}" for word, value in SMALLER.items() if f"\n  {word}:" in text]
    size = 96 if name in ON_TOKENS else 32  # a grid of 6×6 or of 2×2
    words += ["encoder=test_vit", f"image_size={size}"] if name in VIT else ["encoder=test_resnet", "image_size=16"]
    return cli.compose(TOOL, [*words, *more])


def without_batchnorm(name: str) -> tuple[str, ...]:
    """Words for an encoder of no BatchNorm."""
    return () if name in VIT else ("encoder=test_vit", "image_size=32")


def made(name: str, *more: str, dtype: torch.dtype = torch.float32, smooth: bool = False) -> Method:
    """The method, the same on every process, with BatchNorm as ssl.pretrain has it there.

    smooth: SiLU for ReLU, so that rounding cannot open a unit on one side only.
    """
    words = words_of(name, *more)
    torch.manual_seed(3)
    local = words.augment.local.views > 0
    method = build_method(words, encoders.create(words.encoder, 1, words.image_size, words.stem, False, local).train())
    for module in list(method.modules()) if smooth else ():
        for child in [n for n, m in module.named_children() if isinstance(m, nn.ReLU)]:
            setattr(module, child, nn.SiLU())
    if world_size() > 1 and method.traits.sync_batchnorm:
        sync_batchnorm(method)
    return method.to(dtype=dtype, memory_format=torch.channels_last)


def batch(
    name: str, step: int = 0, dtype: torch.dtype = torch.float32, local: int = 0, size: int | None = None
) -> Batch:
    """This process's rows of the global batch of a step: the views and `local` crops of half their size."""
    size = size or words_of(name).image_size
    generator = torch.Generator().manual_seed(step)
    image, whole = torch.randn(B, 1, size, size, generator=generator), words_of(name).augment.views
    if name in ON_TOKENS:  # patches that resemble one another, so that there is something to predict
        image = image + 2 * torch.randn(1, 1, 16, 16, generator=generator).repeat(1, 1, size // 16, size // 16)
    views = [image + 0.5 * torch.randn(image.shape, generator=generator) for _ in range(whole + local)]
    views[whole:] = [view[:, :, : size // 2, : size // 2] for view in views[whole:]]
    indices = torch.randperm(1000, generator=generator)[:B]
    labels = torch.randint(3, (B,), generator=generator)
    return Batch([_local(view.to(dtype)) for view in views], local_rows(indices), local_rows(labels))


def _local(view: Tensor) -> Tensor:
    return local_rows(view).contiguous(memory_format=torch.channels_last)
