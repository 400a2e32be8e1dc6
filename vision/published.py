"""A timm architecture with the weights of another program's file, adapted to the input's channels and size."""
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from core.errors import SettingError
from core.image_size import Size
from vision import encoders
from vision.checkpoint_file import Checkpoint, read_checkpoint
from vision.foreign import Fit, LoadedWeights, fit, with_changes
from vision.stems import adaptation, adapted_stem, stem_weights

COMMON = (  # that self-supervised weights are published for
    "resnet50", "vit_small_patch16_224", "vit_base_patch16_224", "vit_small_patch14_dinov2", "vit_base_patch14_dinov2",
    "resnet18", "resnet34", "resnet101", "vit_tiny_patch16_224", "vit_large_patch16_224", "vit_small_patch8_224",
    "vit_base_patch8_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2", "convnext_tiny",
    "efficientnet_b0", "tf_efficientnet_lite0",
)


@dataclass(frozen=True)
class Architecture:
    """Which timm model, for which input: see `encoders.create`."""

    name: str
    image_size: Size  # pixels a side, or height and width
    stem: str = "auto"  # auto: timm's own. "small" for a file that was trained with a 3×3 stem, as CIFAR's encoders are
    several_sizes: bool = False
    attention: str = "none"

    def create(self, channels: int, attention: str = "none") -> nn.Module:
        stem = "full" if self.stem == "auto" else self.stem
        return encoders.create(self.name, channels, self.image_size, stem, False, self.several_sizes, attention)


def with_weights(path: str | Path, architecture: Architecture, channels: int, setting: str = "weights") -> nn.Module:
    """The encoder with a file's weights.  It knows its `.spec`, `.dim` and `.loaded` (what was taken from the file), and, where
    its stem was adapted to other channels, the names of those weights as `.adapted`.

    channels: of the images. Gray images for color weights, and color ones for gray weights, keep the weights' channels
    (`encoders.fit_channels`); for others the stem is adapted. Raises SettingError, one line, where the file does not fit.
    """
    checkpoint = read_checkpoint(path, setting)
    encoder, found = _native(checkpoint, architecture, setting)
    base = found.channels
    if base is not None and base != channels and not {base, channels} <= {1, 3}:
        adapted = _finished(architecture, _adapted(found, architecture, channels, setting), channels)
        adapted.adapted = stem_weights(adapted)
        return adapted
    return _finished(architecture, found, encoder.spec.channels, encoder)


def _native(checkpoint: Checkpoint, architecture: Architecture, setting: str) -> tuple[nn.Module, Fit]:
    """An encoder of the file's own channels, and the file's tensors for it."""
    encoder = architecture.create(3)
    try:
        found = fit(checkpoint, encoder, architecture.name, setting)
    except SettingError as error:
        if likely := fitting(checkpoint):
            raise SettingError(setting, f"{error.rest}{likely}, which it fits") from error
        raise
    if found.channels in (None, 3):
        return encoder, found
    encoder = architecture.create(found.channels)
    return encoder, fit(checkpoint, encoder, architecture.name, setting)


def fitting(checkpoint: Checkpoint) -> str | None:
    """Which of the common encoders a file's tensors are of, as far as names and shapes tell."""
    for name in COMMON:
        encoder = _shapes(name)
        if len(encoder.state_dict()) > 2 * len(checkpoint.tensors):  # counters of BatchNorm may be missing, not half of it
            continue
        try:
            found = fit(checkpoint, encoder, name)
        except SettingError:
            continue
        if not found.loaded.changes:
            return name
    return None


@cache
def _shapes(name: str) -> nn.Module:
    """timm's model of that name, on torch's meta device: shapes without numbers."""
    published = encoders.pretrained_input(name)
    spec = encoders.specify(name, 3, published[2] if published else 224, "full")
    with torch.device("meta"):
        encoder = encoders.timm_model(spec)
    encoder.spec = spec
    return encoder


def _adapted(found: Fit, architecture: Architecture, channels: int, setting: str) -> Fit:
    base = found.channels
    assert base is not None
    names = stem_weights(architecture.create(base))
    try:
        tensors = adapted_stem(found.tensors, names, base, channels)
    except ValueError as error:
        way = "choose an encoder with a plain first convolution"
        raise SettingError(setting, f"{found.loaded.file}: {error}; {way}") from error
    return Fit(tensors, with_changes(found, adaptation(base, channels)), channels)


def with_channels(encoder: nn.Module, channels: int) -> nn.Module:
    """The same encoder for images of so many channels, its stem adapted (`stems.adapted_stem`): of timm's published weights.

    Raises SettingError where the stem is of another construction.
    """
    base, names = encoder.spec.channels, stem_weights(encoder)
    if not names:
        raise SettingError("encoder", f"{encoder.spec.name}: its first layer is no plain convolution, so its published weights "
                           f"cannot be adapted to {channels} channels; choose another, or pretrained=false")
    other = encoders.build(replace(encoder.spec, channels=channels))
    other.load_state_dict(adapted_stem(encoder.state_dict(), names, base, channels))
    other.adapted = names
    changes = (adaptation(base, channels),)
    other.loaded = LoadedWeights(encoder.spec.name, "", "", "timm", len(encoder.state_dict()), (), (), changes)
    return other


def _finished(architecture: Architecture, found: Fit, channels: int, encoder: nn.Module | None = None) -> nn.Module:
    """The encoder with these tensors; those of CBAM, which no file has, stay random and are named among the changes."""
    encoder = encoder or architecture.create(channels)
    state = encoder.state_dict()
    with torch.no_grad():
        for name, value in found.tensors.items():
            assert state[name].shape == value.shape, name  # copy_ would broadcast
            state[name].copy_(value)
    loaded = found.loaded
    if architecture.attention != "none":
        whole = architecture.create(channels, architecture.attention)
        whole.load_state_dict(state, strict=False)
        loaded = with_changes(found, f"attention={architecture.attention}: its modules begin with random weights")
        encoder = whole
    encoder.loaded = loaded
    return encoder
