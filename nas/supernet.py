"""One pretraining for a whole space: an encoder whose parts are all trained at once.

    uv run python -m nas.supernet --space elastic --data fashion_mnist --epochs 30 --out runs/supernet
    uv run python -m nas.search --strategy supernet --space elastic --study fashion …    # trains it, then searches in it

Each step trains the largest encoder of the space, the smallest and `subnets` sampled ones on the same views, any method's loss
each: the sandwich rule of Yu & Huang 2019, arXiv 1903.05134. BatchNorm's statistics are recomputed for every part that is
evaluated (ibid., §3.2). In all else the run is one of ssl.pretrain: it is saved, resumed, paused and distributed like those.
"""
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import ssl.pretrain
from core import cli, training
from core.batchnorm import sync_batchnorm
from core.image_size import Size
from core.method import Batch, Method, Output
from core.processes import world_size
from nas import space
from nas.settings import SupernetSettings
from nas.space import Space, StubTrial, largest, smallest
from vision import artifact, elastic, encoders
from vision.augment import Augmentation
from vision.build import augmentation_for, with_fit
from vision.encoders import Spec
from vision.pixels import normalize_images
from vision.splits import Dataset

TOOL = cli.Tool(
    module="nas.supernet",
    primary=Path(__file__).with_suffix(".yaml"),
    searched=(ssl.pretrain.ROOT / "ssl", ssl.pretrain.ROOT / "vision" / "config"),
    summary="Pretrain all encoders of a space at once: python -m nas.supernet --space elastic --data digits",
    settings=SupernetSettings,
)
CHECKED_PARTS = 64  # sampled encoders that must be parts of the largest, before anything is trained


# ---------------------------------------------------------------------------------------------------------------- training


class Sandwich(Method):
    """Mixed into a method's class: its loss, averaged over the whole encoder and parts of it."""

    parts: Callable[[int], list[Spec | None]]  # step → which to train; None: the whole

    def embed(self, batch: Batch) -> Tensor:
        """→ B,S·V,D: the whole's views first."""
        features = []
        for spec in self.parts(int(self.sandwiches)):
            with self.encoder.activated(spec):
                features.append(super().embed(batch))
        return torch.cat(features, dim=1)

    def objective(self, features: Tensor, targets: Any, progress: float) -> Output:
        parts = features.chunk(len(self.parts(int(self.sandwiches))), dim=1)
        outputs = [super(Sandwich, self).objective(part, targets, progress) for part in parts]
        losses, whole = torch.stack([output.loss for output in outputs]), outputs[0]
        scalars = {"loss_largest": losses[0].detach(), "loss_smallest": losses[1].detach()}
        return replace(whole, loss=losses.mean(), scalars=dict(whole.scalars) | scalars)  # the whole's embeddings are staged

    def after_step(self, staged: Any, progress: float) -> None:
        super().after_step(staged, progress)
        self.sandwiches += 1


def sandwiched(method: Method, function: Space, subnets: int, seed: int) -> Method:
    """The method, trained on the space's encoders, of which its own is the largest. In place.

    Raises ValueError for a method whose loss is not apart from its features (core/method.py).
    """
    kind, spec = type(method), method.encoder.spec
    if kind.objective is Method.objective or kind.forward is not Method.forward:
        raise ValueError(f"method={kind.__name__} has no objective apart from its features: it cannot train a supernet")
    elastic.elastic(method.encoder, sync_batchnorm if world_size() > 1 and method.traits.sync_batchnorm else None)
    shape = spec.channels, spec.image_size
    least = function(smallest, *shape)

    def parts(step: int) -> list[Spec | None]:
        sampled = StubTrial(random.Random(f"{seed} {step}").randrange)
        return [None, least, *(function(sampled, *shape) for _ in range(subnets))]

    method.__class__ = type(f"Sandwich{kind.__name__}", (Sandwich, kind), {})
    method.parts = parts
    method.register_buffer("sandwiches", torch.tensor(0))  # steps done, from which the next parts are sampled
    return method


def largest_spec(function: Space, channels: int, size: Size) -> Spec:
    """The space's largest encoder.  Raises ValueError where others are no parts of it."""
    spec, rng = function(largest, channels, size), random.Random(0)
    for trial in (smallest, *(StubTrial(rng.randrange) for _ in range(CHECKED_PARTS))):
        part = function(trial, channels, size)
        if not isinstance(part, Spec) or part.image_size != spec.image_size:
            raise ValueError("space: a supernet's encoders are specs of one image size, such as space=elastic's")
        try:
            elastic.check_nested(spec, part)
        except ValueError as error:
            raise ValueError(f"space: {error}; space=elastic is one whose encoders are all parts of the largest") from error
    return spec


def pretrain(settings: SupernetSettings, listeners=()) -> ssl.pretrain.PretrainResult:
    """ssl.pretrain.pretrain with the space's largest encoder, which has all the others as parts."""
    function = space.space_by_name(settings.space)

    def encoder_of(settings: SupernetSettings, dataset: Dataset) -> tuple[nn.Module, Augmentation]:
        encoder = encoders.build(largest_spec(function, dataset.channels, settings.image_size))
        encoder.spec = with_fit(encoder.spec, settings.image_fit, dataset.mean)
        header = artifact.EncoderHeader(encoder.spec, dataset.mean, dataset.std, encoder.dim, {}, pixels=dataset.pixels)
        return encoder.train(), augmentation_for(header, cli.plain(settings.augment))

    def method_of(settings: SupernetSettings, encoder: nn.Module) -> Method:
        return sandwiched(training.build_method(settings, encoder), function, settings.subnets, settings.seed)

    return ssl.pretrain.pretrain(settings, listeners, encoder_of, method_of)


def run(settings: SupernetSettings) -> int:
    pretrain(settings)
    return 0


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: SupernetSettings) -> None:
    training.check(settings)
    if "encoder" in cli.explicit(settings):
        reason = f"a supernet's encoder is the largest of space={settings.space}"
        raise ValueError(f"encoder={settings.encoder}: {reason}; leave it out")
    if settings.weights:
        raise ValueError(f"weights={settings.weights}: a supernet begins with random weights; leave it out")
    for name in cli.explicit(settings):
        if name.startswith("adapt.") or name == "lora":
            raise ValueError(f"{name}={cli.flat(settings)[name]}: a supernet begins with random weights; leave it out")
    if settings.compile:
        raise ValueError("compile=true: a supernet is another encoder at every step; leave it out")
    if settings.checkpointing:
        raise ValueError("checkpointing=true: a supernet is another encoder at every step; leave it out")


# ----------------------------------------------------------------------------------------------------------------- its parts


def inherited_encoder(
    encoder: nn.Module, header: artifact.EncoderHeader, spec: Spec, images: Tensor, device: torch.device
) -> nn.Module:
    """A part of a supernet with its own BatchNorm statistics.  images: N,C,S,S uint8"""
    part = elastic.extract(encoder, spec).to(device)
    return recompute_batchnorm(part, images, torch.tensor(header.mean), torch.tensor(header.std))


@torch.no_grad()
def recompute_batchnorm(encoder: nn.Module, images: Tensor, mean: Tensor, std: Tensor) -> nn.Module:
    """Make BatchNorm's running statistics the average over these images, in batches of 256. In place; evaluation mode."""
    norms = [m for m in encoder.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
    encoder.train()
    device = next(encoder.parameters()).device
    for part in images.split(256):
        encoder(normalize_images(part.to(device), mean, std))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return encoder.eval()


if __name__ == "__main__":
    sys.exit(main())
