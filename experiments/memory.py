"""Memory of training by DINOv2, whole in each process and sharded: predicted for large encoders, measured for a small one.

    uv run torchrun --nproc_per_node 2 -m experiments.memory --keep
"""
import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

from core import cli, machine, optim, training
from core.checkpoint import write
from core.footprint import by_shapes, kept_by_forward, predict
from core.method import Batch, Method
from core.processes import is_main, session, world_size
from core.settings import PretrainSettings
from core.shard import shard_
from ssl.pretrain import TOOL
from vision import encoders
from vision.build import checkpoint_blocks

KEPT = Path(__file__).parent / "scale" / "memory.json"
SIZES = ("vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224", "vit_giant_patch14_224")
SIZES += ("vit_7b_patch16_dinov3",)
KINDS = ("activations", "activations, checkpointing")
SMALL = "vit_tiny_patch16_224"
PROCESSES = 8  # of the predictions
CROPS = ((2, 224), (8, 98))  # of an image: how many, and of how many pixels; 96 where patches are of 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--keep", action="store_true", help=f"write {KEPT}")
    keep = arguments.parse_args().keep
    with session("cpu"):
        found = {"measured": small()}
        if is_main():
            found["predicted"] = {name: predicted(name) for name in track(SIZES, "predicting")}
            document = {
                **machine.provenance_of([0]),
                "command": "python -m torch.distributed.run --nproc_per_node 2 -m experiments.memory --keep", **found,
                "note": "bytes; activations: of an image, two crops of 224 pixels and eight of 96 or 98, in the encoder",
            }
            print(text := json.dumps(document, indent=1))
            if keep:
                KEPT.parent.mkdir(exist_ok=True)
                write(KEPT, text + "\n")


def settings_for(name: str) -> PretrainSettings:
    return cli.compose(TOOL, ["method=dinov2", f"encoder={name}", "image_size=224"])


def made(name: str) -> Method:
    torch.manual_seed(0)
    settings = settings_for(name)
    return training.build_method(settings, encoders.create(name, 3, 224, "full", False, True).train())


def small() -> dict:
    """Predicted and measured states of a small encoder, of this process; whole, and sharded over all."""
    found = {}
    for shard in (False, True):
        method = made(SMALL)
        expected = predict(method, "adamw", world_size(), shard)
        if shard:
            shard_(method, torch.device("cpu"))
        optimizer = optim.build(method, settings_for(SMALL).optim, 1e-3)
        generator = torch.Generator().manual_seed(0)
        views = [torch.randn(2, 3, 224, 224, generator=generator) for _ in range(2)]
        method(Batch(views, torch.arange(2)), 0.5).loss.backward()
        optimizer.step()
        found["sharded" if shard else "whole"] = {
            "processes": world_size(), "predicted": expected.states, "measured": measured(method, optimizer),
            "gathered": expected.gathered,
        }
    return found


def measured(method: Method, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients and moments that this process holds, with padding, after a backward pass."""
    parameters = list(method.parameters())
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None), *moments]
    storages = [(t.to_local() if hasattr(t, "to_local") else t).untyped_storage() for t in tensors]  # pyrefly: ignore
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def predicted(name: str) -> dict:
    """Of a process among PROCESSES, in bytes."""
    with torch.device("meta"):
        method = made(name)
    whole, rows = (predict(method, "adamw", PROCESSES, shard) for shard in (False, True))
    found = {
        "parameters": sum(p.numel() for p in method.encoder.parameters()), "whole": whole.states, "sharded": rows.states,
        "gathered": rows.gathered, "of sharded": dataclasses.asdict(rows),
    }
    makers = (lambda: made(name).encoder, lambda: checkpointed(made(name).encoder))
    return found | {kind: by_shapes(make, activations) for kind, make in zip(KINDS, makers, strict=True)}


def checkpointed(encoder: nn.Module) -> nn.Module:
    checkpoint_blocks(encoder)
    return encoder


def activations(encoder: nn.Module) -> dict[str, dict[str, int]]:
    """Bytes of an image's crops, and what there is once: autocast's copies of weights."""
    found, patch = {}, encoders.patch_size(encoder)
    for dtype in (torch.float32, torch.bfloat16):
        bytes_ = {"image": 0, "once": 0}
        for count, side in CROPS:
            shape = 3, side // patch * patch, side // patch * patch
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                one, two = (kept_by_forward(encoder, [torch.zeros(images, *shape)]) for images in (1, 2))
            bytes_ = {"image": bytes_["image"] + count * (two - one), "once": 2 * one - two}
        found[str(dtype).removeprefix("torch.")] = bytes_
    return found


def table(document: dict) -> str:
    """The predictions as docs/cluster.md shows them: GiB of a process, MiB of an image."""
    lines = [
        "| encoder | parameters | states | sharded | gathered | image, fp32 | checkpointed | image, bf16 | checkpointed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in document["predicted"].items():
        kinds = [row[kind][dtype]["image"] / 2**20 for dtype in ("float32", "bfloat16") for kind in KINDS]
        states = " | ".join(f"{row[kind] / 2**30:.1f} GiB" for kind in ("whole", "sharded", "gathered"))
        images = " | ".join(f"{value:,.0f} MiB" for value in kinds)
        lines.append(f"| {name} | {row['parameters'] / 1e6:,.0f} M | {states} | {images} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
