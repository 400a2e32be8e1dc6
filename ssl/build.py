"""Words → the objects a run is made of. The last place that reads the configuration."""
import importlib
import inspect
import os
from functools import partial

import torch
from torch import nn

from core import config, loop, optim
from core.distributed import World
from core.method import Method
from core.run import counting
from core.schedule import cosine, warmup_cosine
from vision import artifact, datasets, encoders, loaders
from vision.augment import Recipe, local_views


def build_data(words) -> datasets.Dataset:
    given = config.plain(words.data)
    if given.get("root"):
        given["root"] = str(config.expand(given["root"]))
    with counting("checking images") as progress:
        return datasets.load(**given, seed=words.seed, progress=progress)


def build_encoder(words, dataset: datasets.Dataset) -> tuple[nn.Module, Recipe]:
    """The encoder, and how views are made for it. One read from a file keeps its own input size and normalisation."""
    recipe = config.plain(words.augment)
    local = local_views(recipe) > 0
    if words.encoder.endswith(".safetensors"):
        encoder, card = artifact.load(config.expand(words.encoder), local)
        mean, std = card.mean, card.std
    else:
        encoder = encoders.create(words.encoder, dataset.channels, words.image_size, words.stem, words.pretrained, local)
        mean, std = dataset.mean, dataset.std
    patch = encoders.patch_size(encoder)
    return encoder.train(), Recipe(encoder.spec.image_size, mean, std, multiple=patch, **recipe)


def build_method(words, encoder: nn.Module) -> Method:
    """The class that the yaml names, with exactly the arguments that it lists. What its constructor raises passes."""
    arguments = config.plain(words.method)
    module, _, name = arguments.pop("_target_").rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"method._target_={module}.{name}: {error}") from error
    try:
        inspect.signature(kind).bind(encoder=encoder, **arguments)
    except TypeError as error:
        raise ValueError(f"method={words.chosen.method}: {kind.__name__} has {error}") from error
    takes = kind.views
    if words.augment.views != takes:  # local crops are beside those
        raise ValueError(f"augment.views={words.augment.views}: method={words.chosen.method} takes {takes} of each image")
    return kind(encoder=encoder, **arguments)


def build_optimizer(words, method: Method) -> torch.optim.Optimizer:
    o = words.optim
    return optim.build(
        method,
        o.name,
        learning_rate(words),
        o.weight_decay,
        momentum=o.momentum,
        betas=tuple(o.betas),
        eta=o.eta,
        lars_clip=o.lars_clip,
        decay_all=o.decay_all,
        bias_scale=o.bias_scale,
    )


def learning_rate(words) -> float:
    """The peak, for the whole batch of all processes: optim.lr is for 256 images."""
    ratio = words.batch_size / 256
    return words.optim.lr * {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[words.optim.scaling]


def build_plan(words, deal: loaders.Plan, encoder: nn.Module, world: World) -> loop.Plan:
    steps = words.steps or max(1, round(words.epochs * deal.steps_an_epoch))
    checks = {round(steps * (i + 1) / words.checks) for i in range(words.checks)} - {0}
    share = words.batch_size // world.size
    if share % words.accumulate or share // words.accumulate < 2:
        raise ValueError(
            f"batch_size={words.batch_size}, accumulate={words.accumulate}: the {share} images of each of {world.size} "
            "processes must make that many equal pieces, of 2 images at least"
        )
    if words.chunk and (share % words.chunk or words.chunk < 2):
        raise ValueError(f"chunk={words.chunk}: must divide the {share} images of each of {world.size} processes, 2 at least")
    o = words.optim
    return loop.Plan(
        steps=steps,
        steps_an_epoch=deal.steps_an_epoch,
        batch_size=words.batch_size,
        checks=frozenset(checks),
        rate=partial(warmup_cosine, peak=learning_rate(words), warmup=o.warmup, start=o.warmup_lr, end=o.end_lr),
        precision=precision(words.precision, encoder, world.device),
        accumulate=words.accumulate,
        chunk=words.chunk,
        decay=None if o.end_weight_decay is None else partial(cosine, start=o.weight_decay, end=o.end_weight_decay),
        clip=words.clip,
        seed=words.seed,
        log_every=words.log_every,
        save_seconds=words.save_minutes * 60,
    )


def precision(name: str, encoder: nn.Module, device: torch.device) -> torch.dtype | None:
    """bf16 where the device computes in it: GPUs since Ampere; CPUs with AMX, where it doubles dense convolutions and
    halves depthwise ones (measured), so encoders with those stay in fp32.
    """
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            fast = torch.cpu._is_amx_tile_supported() and not encoders.has_depthwise(encoder)
            name = "bf16" if fast else "fp32"
    return torch.bfloat16 if name == "bf16" else None


def workers(words, world: World) -> int:
    """Decoding processes: what the cores leave beside this machine's training processes, at least one each."""
    if words.workers >= 0:
        return words.workers
    return max(1, len(os.sched_getaffinity(0)) // world.local_size - (world.device.type == "cuda"))
