"""SimCLR end to end, images a second: lightly's own example loop against ours, same encoder, batch, size and images.

    uv run python -m experiments.speed.step --keep

lightly's loop is its PyTorch example for SimCLR as its documentation gives it (SimCLRTransform in a DataLoader, backbone,
SimCLRProjectionHead, NTXentLoss, SGD), with a timm backbone in place of torchvision's and a worker a core. Ours is
core.loop.train with the objects ssl.pretrain builds, at its defaults for the device: batched augmentation there,
channels-last, bf16 where the device has it. `--precision fp32` takes that one away.
"""
import tempfile

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from core import loop, optim
from core.distributed import session
from core.run import Run
from experiments.speed.augment import MEAN, STD, STRONG, Lightly
from experiments.speed.side_by_side import arguments, compare, report
from ssl.build import precision
from ssl.method.simclr import SimCLR
from vision import datasets, encoders
from vision.augment import Recipe
from vision.datasets import Images
from vision.loaders import MemoryLoader, Plan

DIM, HIDDEN, TEMPERATURE, LR = 128, 512, 0.5, 0.06


def theirs(backbone: nn.Module, pixels: np.ndarray, size: int, batch: int, workers: int, device: torch.device):
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    model = nn.Sequential(backbone, SimCLRProjectionHead(backbone.dim, HIDDEN, DIM)).to(device)
    loader = DataLoader(
        Lightly(pixels, size), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    criterion = NTXentLoss(temperature=TEMPERATURE)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def epoch() -> int:
        done = 0
        for first, second in loader:
            loss = criterion(model(first.to(device)), model(second.to(device)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done += len(first)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return done

    return epoch


def ours(backbone: nn.Module, pixels: np.ndarray, size: int, batch: int, world, dtype: torch.dtype | None):
    method = SimCLR(backbone, HIDDEN, DIM, TEMPERATURE).to(world.device, memory_format=torch.channels_last)
    split = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    deal = Plan(len(pixels), batch, 0, world)
    loader = MemoryLoader(split, Recipe(size, MEAN, STD, **STRONG), deal, 3)
    optimizer = optim.build(method, "sgd", LR, 0.0)
    steps = deal.steps_an_epoch
    plan = loop.Plan(steps, steps, batch, frozenset(), lambda progress: LR, dtype, log_every=steps, save_seconds=1e9)

    def epoch() -> int:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder, {})
            run.begin()
            loop.train(method, loader.batches(0, steps), optimizer, plan, run, world.device, lambda step: {})
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        return steps * batch

    return epoch


def bare(backbone: nn.Module, size: int, batch: int, device: torch.device, dtype: torch.dtype | None):
    """The encoder's forward and backward alone, on resident random images: what no framework can go below."""
    backbone = backbone.to(device, memory_format=torch.channels_last)
    images = torch.randn(2 * batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def steps(count: int = 8) -> int:
        for _ in range(count):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = backbone(images).float().square().mean()
            loss.backward()
            backbone.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count * batch

    return steps


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        encoders=("mobilenetv3_small_050,resnet10t,resnet18", "timm names, by comma"),
        images=(1024, "images a round"),
        batch=(256, "images a batch"),
        size=(32, "pixels a side"),
        workers=(2, "lightly's worker processes"),
        precision=("auto", "ours: auto, fp32 or bf16"),
        stem=("full", "full: the encoder as timm gives it; small: 3×3, stride 1, no pooling, for both"),
    )
    images = datasets.load("synthetic").train
    chosen = torch.arange(settings.images) % len(images)
    pixels = images.resized(chosen, settings.size).permute(0, 2, 3, 1).contiguous().numpy()
    cases, notes = {}, {}
    with session(settings.device) as world:
        for name in settings.encoders.split(","):
            torch.manual_seed(0)
            backbones = [encoders.create(name, 3, settings.size, settings.stem) for _ in range(3)]
            dtype = precision(settings.precision, backbones[0], world.device)
            label = f"{name}, {settings.stem} stem, {settings.size} px, ours {'bf16' if dtype else 'fp32'}"
            peer = theirs(backbones[0], pixels, settings.size, settings.batch, settings.workers, world.device)
            mine = ours(backbones[1], pixels, settings.size, settings.batch, world, dtype)
            cases[label] = compare(peer, mine, settings.rounds)
            floor = compare(bare(backbones[2], settings.size, settings.batch, world.device, dtype), mine, settings.rounds)
            share = 1 - floor["ours"]["median"] / floor["peer"]["median"]
            notes[f"{label}: share of our step that is not the encoder"] = f"{100 * share:.0f} %"
    report("step", "images/s", cases, settings, notes)


if __name__ == "__main__":
    main()
