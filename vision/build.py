"""Settings → an encoder with its input, and the precision it computes in."""
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from core import cli
from core.image_size import Size, size_text
from core.recompute import blocks_of, recompute_
from core.settings import CommonSettings
from vision import artifact, encoders
from vision.augment import Augmentation, local_views, several_sizes
from vision.color_settings import without_color
from vision.normalization import IMAGENET, Known, Moments, choose, moments_note
from vision.published import Architecture, with_channels, with_weights
from vision.resized import load_at
from vision.splits import Dataset


def build_encoder(settings: CommonSettings, dataset: Dataset) -> tuple[nn.Module, Augmentation]:
    """The encoder, and how views are made for it. One read from a file keeps its own input size and normalization, and so
    does one with published weights, timm's or those of another program's file: color images (gray ones are repeated; bands get
    an adapted stem), of the size that they were trained with unless `image_size` is set. `scratch` builds the same encoder with
    random weights. `notes` says what was loaded and adapted.
    """
    augment = cli.plain(settings.augment)
    several = several_sizes(augment) or len(getattr(settings, "teacher_sizes", ())) > 1  # of distillation
    attention, scratch = getattr(settings, "attention", "none"), getattr(settings, "scratch", False)  # of some tools
    pixels = dataset.pixels
    if settings.encoder.endswith(".safetensors"):
        resized = getattr(settings, "from_run", None) and "image_size" in cli.explicit(settings)
        encoder, header = load_at(cli.expand(settings.encoder), settings.image_size if resized else None, several)
        own = stated = Moments(header.mean, header.std)
        pixels = pixels or header.pixels
        if attention not in ("none", encoder.spec.attention):
            raise ValueError(f"attention={attention}: {settings.encoder} was made without; give it to a timm name")
    else:
        encoder, own, stated = _named(settings, dataset, several, attention)
    if encoder.spec.channels != dataset.channels and not {encoder.spec.channels, dataset.channels} <= {1, 3}:
        raise ValueError(f"encoder={settings.encoder} takes images of {encoder.spec.channels} channels, and these have "
                         f"{dataset.channels} bands; choose as many with data.bands, or train an encoder from scratch")
    known = Known(own, stated, Moments(tuple(dataset.mean), tuple(dataset.std)))
    keeps = settings.encoder.endswith(".safetensors") and settings.normalization == "auto"
    input_ = own if keeps else choose(settings.normalization, known, encoder.spec.channels)
    if scratch:
        encoder = encoders.build(encoder.spec)
    encoder.spec = with_fit(encoder.spec, settings.image_fit, input_.mean)
    header = artifact.EncoderHeader(encoder.spec, tuple(input_.mean), tuple(input_.std), encoder.dim, {}, pixels=pixels)
    augmentation = augmentation_for(header, augment, encoders.patch_size(encoder))
    used = [("local.size", "local crops", augmentation.local_size, "local.views=0")] if local_views(augment) else []
    used += late_crops(augmentation)
    used += [("view_size", "views", augmentation.size, "view_size=1")] if augmentation.size != encoder.spec.image_size else []
    for name, views, side, way in used:
        if why := encoders.unfit_reason(encoder, side):
            whole = size_text(encoder.spec.image_size)
            raise ValueError(f"augment.{name}: encoder={encoder.spec.name} does not take {views} of {size_text(side)} px "
                             f"({why}); choose another share of {whole} px, or augment.{way}")
    return encoder.train(), augmentation


def late_crops(augmentation: Augmentation) -> list[tuple[str, str, Size, str]]:
    """Of later stages of a run: setting, what its crops are called, their size, and the setting that is without them."""
    late, last = augmentation.late, augmentation.staged(augmentation.late.larger, clean=True)
    larger = [("high_resolution.size", "larger crops", last.size, "high_resolution.size=1")] if late.larger else []
    clean = [("clean.size", "clean views", last.crops[-1][0], "clean.size=0")] if late.clean else []
    return larger + clean


def _named(
    settings: CommonSettings, dataset: Dataset, several_sizes: bool, attention: str
) -> tuple[nn.Module, Moments | None, Moments | None]:
    """The encoder of a timm name, what its weights were trained with, and what timm states for the name."""
    name, channels, size = settings.encoder, dataset.channels, settings.image_size
    stated = None
    if (settings.pretrained or settings.weights or settings.normalization == "weights") and (
        published := encoders.pretrained_input(name)
    ):
        mean, std, native = published
        stated = Moments(mean, std)
        if settings.pretrained or settings.weights:
            size = size if "image_size" in cli.explicit(settings) else native
    if settings.weights:
        architecture = Architecture(name, size, settings.stem, several_sizes, attention)
        encoder = with_weights(cli.expand(settings.weights), architecture, channels)
        return encoder, stated if stated and "." in name else IMAGENET, stated
    bands = settings.pretrained and channels not in (1, 3)
    if settings.pretrained and stated:
        channels = 3
    encoder = encoders.create(name, channels, size, settings.stem, settings.pretrained, several_sizes, attention)
    if bands:
        encoder = with_channels(encoder, dataset.channels)
    return encoder, stated if settings.pretrained else None, stated


def with_fit(spec: encoders.Spec, fit: str, mean: Sequence[float]) -> encoders.Spec:
    """The spec of an encoder whose input is made so.  fit: of `vision.geometry.Geometry`, or auto: as the spec says.

    mean: of the normalization, which pads a letterbox.
    """
    fit = spec.fit if fit == "auto" else fit
    return replace(spec, fit=fit, fill=artifact.fill_of(fit, mean))


def notes(encoder: nn.Module, settings: CommonSettings, augmentation: Augmentation) -> list[str]:
    """For the user: which weights the encoder begins with, what was adapted, and what its input is normalized by."""
    loaded = getattr(encoder, "loaded", None)
    found = loaded.notes if loaded else []
    if settings.encoder.endswith(".safetensors") and "image_size" in cli.explicit(settings):
        given, own = settings.image_size, encoder.spec.image_size
        if given != own:
            found = [*found, f"image_size={size_text(given)}: the encoder's file says {size_text(own)} px, which it keeps"]
    if any(view.turns for view in augmentation.views) and not isinstance(augmentation.size, int):
        size = size_text(augmentation.size)
        found = [*found, f"augment.turns: views of {size} px are turned by 0 or 180 degrees: a quarter turn has another shape"]
    if settings.pretrained and encoders.has_new_stem(encoder):
        found = [*found, f"stem={encoder.spec.stem}: in place of the published weights' first convolution stands one of random "
                         "weights; stem=full keeps them"]
    if settings.weights and not getattr(settings, "scratch", False):
        chosen = Moments(tuple(augmentation.mean.tolist()), tuple(augmentation.std.tolist()))
        found = [*found, moments_note(settings.normalization, chosen)]
    return found


def augmentation_for(header: artifact.EncoderHeader, augment: dict[str, Any], multiple: int = 1) -> Augmentation:
    """How views are made for an encoder of this header: color augmentation only where its images have color.

    augment: its settings. multiple: as of `Augmentation`.
    """
    settings = without_color(augment, header.spec.channels)
    augmentation = Augmentation(header.spec.image_size, header.mean, header.std, multiple=multiple, **settings)
    augmentation.pixels = header.pixels
    return augmentation


def compile_encoder(encoder: nn.Module) -> None:
    """torch.compile, in place.  Raises ValueError where it does not work on the encoder's device: no C++ compiler, say."""
    device = next(encoder.parameters()).device
    try:  # something small first: an encoder would fail in the middle of its first step
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # torch's compilers have no common class
        why = " ".join(str(error).split())[:160]
        raise ValueError(f"compile=true: torch.compile does not work here ({type(error).__name__}: {why}); install what it "
                         "needs, such as g++, or leave compile out") from error
    encoder.compile()


def checkpoint_blocks(encoder: nn.Module) -> None:
    """Let the encoder's blocks compute their activations again (core/recompute.py), in place.  Raises ValueError for an encoder
    whose blocks are not known.
    """
    if not (blocks := blocks_of(encoder)):
        name = encoder.spec.name
        raise ValueError(f"checkpointing=true: encoder={name} has no blocks that are known; leave it out, or use chunk")
    recompute_(blocks)


def precision(name: str, encoder: nn.Module, device: torch.device, sizes: Iterable[Size] = ()) -> torch.dtype | None:
    """bf16 where the device computes in it: GPUs since Ampere; CPUs with AMX, where it doubles dense convolutions and
    halves depthwise ones (measured), so encoders with those stay in fp32, and so do those that it is wrong for.

    sizes: of views; none: the encoder's own.
    """
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            fast = torch.cpu._is_amx_tile_supported() and not encoders.has_depthwise(encoder)
            sizes = {*sizes} or {encoder.spec.image_size}
            name = "bf16" if fast and not encoders.has_unreached_weights(encoder, sizes) else "fp32"
    return torch.bfloat16 if name == "bf16" else None
