"""SimCLR end to end, images a second: other frameworks' own loops against ours, same encoder, batch, size and images.

    uv run --group bench python -m experiments.speed.step --keep

lightly: its PyTorch example for SimCLR as its documentation gives it (SimCLRTransform in a DataLoader, backbone,
SimCLRProjectionHead, NTXentLoss, SGD), with a timm backbone in place of torchvision's and a worker a core.
stable-pretraining: its example, in a process of its own (stable_pretraining_simclr.py).
Ours: core.loop.train with the objects ssl.pretrain builds, at its defaults for the device: batched augmentation there,
channels-last, bf16 where the device has it, as each case says of ours; `--precision fp32` takes that one away.

Beside them stands the encoder alone, forward and backward on resident random images: no framework can beat it. On a GPU
the same loop also runs with its views made by CPU workers.
"""
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from core import loop, optim
from core.machine import cores, installed
from core.method import Batch
from core.processes import World, session
from core.run import Run
from core.settings import OptimSettings
from experiments.speed.augment import MEAN, STD, STRONG, Peer, of_lightly
from experiments.speed.side_by_side import arguments, compare, report, skip
from ssl.method.simclr import SimCLR
from vision import datasets, encoders
from vision.augment import Augmentation
from vision.build import precision
from vision.loaders import BatchSampler, MemoryLoader
from vision.splits import Images

DIM, HIDDEN, TEMPERATURE, LR = 128, 512, 0.5, 0.06
ENCODERS = "mobilenetv3_small_050,resnet10t,resnet18:small,small:half"


def workers_loader(pixels: np.ndarray, size: int, batch: int, workers: int) -> DataLoader:
    data = Peer(pixels, of_lightly(size), as_tensor=False)
    return DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)


def lightly(backbone: nn.Module, pixels: np.ndarray, size: int, batch: int, workers: int, device: torch.device):
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    model = nn.Sequential(backbone, SimCLRProjectionHead(backbone.dim, HIDDEN, DIM)).to(device)
    loader = workers_loader(pixels, size, batch, workers)
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


class StablePretraining:
    """An epoch a call, in a process that is a user of stable-pretraining and of nothing else that it could disturb."""

    def __init__(self, encoder: str, stem: str, pixels: np.ndarray, settings):
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        np.save(folder / "pixels.npy", pixels)
        options = dict(folder=str(folder), pixels=str(folder / "pixels.npy"), encoder=encoder, stem=stem)
        options |= dict(device=settings.device, size=settings.size, batch=settings.batch, workers=settings.workers)
        options |= dict(hidden=HIDDEN, dim=DIM, temperature=TEMPERATURE, lr=LR)
        command = [sys.executable, "-m", "experiments.speed.stable_pretraining_simclr", json.dumps(options)]
        self.log = folder / "log"
        with open(self.log, "w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self.process = subprocess.Popen(command, **pipes)

    def __call__(self) -> int:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"stable-pretraining ended: {self.log.read_text()[-2000:]}")
        return int(answer)

    def __enter__(self) -> "StablePretraining":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def ours(
    backbone: nn.Module, batches: Callable[[int], Iterator[Batch]], steps: int, batch: int, world: World, dtype
) -> Callable[[], int]:
    method = SimCLR(backbone, HIDDEN, DIM, TEMPERATURE).to(world.device, memory_format=torch.channels_last)
    optimizer = optim.build(method, OptimSettings(name="sgd", weight_decay=0.0), LR)
    plan = loop.TrainConfig(steps, steps, batch, frozenset(), lambda progress: LR, dtype, log_every=steps, save_seconds=1e9)

    def epoch() -> int:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder, {})
            run.begin()
            loop.train(method, batches(steps), optimizer, plan, run, world.device, lambda step: {})
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        return steps * batch

    return epoch


def on_device(pixels: np.ndarray, size: int, batch: int, world: World) -> Callable[[int], Iterator[Batch]]:
    """Our loader: the views of a batch are made on the device."""
    split = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    loader = MemoryLoader(split, Augmentation(size, MEAN, STD, **STRONG), BatchSampler(len(pixels), batch, 0, world), 3)
    return lambda steps: loader.batches(0, steps)


def by_workers(pixels: np.ndarray, size: int, batch: int, workers: int, world: World) -> Callable[[int], Iterator[Batch]]:
    """The same batches as others make them: image by image, in worker processes on the CPU."""
    loader = workers_loader(pixels, size, batch, workers)

    def batches(steps: int) -> Iterator[Batch]:
        for views in loader:
            yield Batch([v.to(world.device, non_blocking=True) for v in views], torch.arange(batch))

    return batches


def bare(backbone: nn.Module, size: int, batch: int, device: torch.device, dtype: torch.dtype | None, count: int):
    """The encoder's forward and backward alone, on resident random images: what no framework can go below."""
    backbone = backbone.to(device, memory_format=torch.channels_last)
    images = torch.randn(2 * batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def steps() -> int:
        for _ in range(count):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = backbone(images).float().square().mean()
            loss.backward()
            backbone.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count * batch

    return steps


def contest(name: str, stem: str, pixels: np.ndarray, settings, world: World) -> tuple[dict[str, dict], dict[str, str]]:
    """One encoder in all loops.  → cases, notes."""
    size, batch, rounds, workers = settings.size, settings.batch, settings.rounds, settings.workers

    def backbone() -> nn.Module:
        torch.manual_seed(0)
        return encoders.create(name, 3, size, stem)

    dtype = precision(settings.precision, backbone(), world.device)
    steps = len(pixels) // batch
    label = f"{name}, {stem} stem, {size} px, batch {batch}, {'bf16' if dtype else 'fp32'}"
    mine = ours(backbone(), on_device(pixels, size, batch, world), steps, batch, world, dtype)
    cases, notes = {}, {}

    if "lightly" in settings.peers.split(","):
        peer = lightly(backbone(), pixels, size, batch, workers, world.device)
        cases[f"{label}; lightly"] = compare(peer, mine, rounds)
    if "stable-pretraining" in settings.peers.split(",") and installed("stable-pretraining"):
        with StablePretraining(name, stem, pixels, settings) as peer:
            cases[f"{label}; stable-pretraining"] = compare(peer, mine, rounds, against="stable-pretraining")
    if world.device.type == "cuda":
        peer = ours(backbone(), by_workers(pixels, size, batch, workers, world), steps, batch, world, dtype)
        cases[f"{label}; CPU workers"] = compare(peer, mine, rounds, against="CPU workers")
    floor = compare(bare(backbone(), size, batch, world.device, dtype, steps), mine, rounds, against="encoder alone")
    cases[f"{label}; encoder alone"] = floor
    share = 1 - floor["ratio"]["median"]
    notes[f"{label}: share of our step that is not the encoder"] = f"{100 * share:.0f} %"
    return cases, notes


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0],
        encoders=(ENCODERS, "timm names or `small`, by comma; name:stem gives one its own stem", "resnet10t"),
        images=(1024, "images a round", 32),
        batch=(256, "images a batch", 16),
        size=(32, "pixels a side"),
        workers=(cores(), "the peers' worker processes", 1),
        precision=("auto", "ours: auto, fp32 or bf16"),
        stem=("full", "full: the encoder as timm gives it; small: 3×3, stride 1, no pooling; for all contestants"),
        peers=("lightly,stable-pretraining", "which frameworks, by comma"),
    )
    images = datasets.load("synthetic").train
    chosen = torch.arange(settings.images) % len(images)
    pixels = images.resized(chosen, settings.size).permute(0, 2, 3, 1).contiguous().numpy()
    if "stable-pretraining" in settings.peers.split(",") and not installed("stable-pretraining"):
        skip("step against stable-pretraining", "not installed; uv sync --group bench installs it")
    if not settings.device.startswith("cuda"):
        skip("step against CPU augmentation workers", "needs a GPU")
    cases, notes = {}, {}
    with session(settings.device) as world:
        for word in settings.encoders.split(","):
            name, _, stem = word.partition(":")
            found, noted = contest(name, stem or settings.stem, pixels, settings, world)
            cases |= found
            notes |= noted
    report("step", "images/s", cases, settings, notes)


if __name__ == "__main__":
    main()
