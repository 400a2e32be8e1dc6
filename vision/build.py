"""Words → what every tool runs on: a data set, an encoder with its input, and the precision it computes in."""
import torch
from torch import nn

from core import config
from core.run import counting
from vision import artifact, datasets, encoders
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
