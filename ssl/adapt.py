"""`--adapt`: which settings continued pretraining has, where the user does not say them.  Imports no torch.

After the recipe by which DINOv3's maintainers go on from weights without heads (FINO, arXiv 2606.05107): heads first with the
encoder frozen, then a ramp; AdamW at 2e-4·√(batch/1024) for the encoder, lower for lower layers and for the stem, weight decay
0.04, gradients clipped at 3. Methods' own optimizers are meant for random weights and would undo trained ones.
"""
import dataclasses
from typing import Any

from core import cli
from core.settings import PretrainSettings

OPTIM = {
    "name": "adamw", "lr": 1e-3, "scaling": "sqrt", "weight_decay": 0.04, "betas": (0.9, 0.999), "decay_all": False,
    "bias_scale": 1.0, "end_weight_decay": None, "warmup": 0.05, "warmup_lr": 0.0, "end_lr": 0.0,
}  # fmt: skip
CLIP = 3.0
# Statistics of augmented views in place of the weights' own cost more than any rate here won (docs/own_images.md).
CHOICES = {
    "warmup": 0.1, "ramp": 0.1, "encoder_lr": 0.1, "layer_decay": 0.8, "stem_lr": 0.2, "batchnorm": "auto", "keep": "best",
}  # fmt: skip
WITH_LORA = {"encoder_lr": 1.0, "layer_decay": 1.0}  # the changes are new weights, in every layer alike
NEED_WEIGHTS = ("adapt.on", "adapt.keep", "adapt.warmup", "adapt.ramp", "adapt.old_data", "lora")


def trained(settings: PretrainSettings) -> bool:
    """Does training begin with the weights of a file, or with timm's?"""
    files = settings.weights is not None or settings.from_run is not None
    found = settings.encoder.endswith(".safetensors") or settings.pretrained or files
    return found and not settings.scratch


def with_defaults(settings: PretrainSettings) -> PretrainSettings:
    """The settings with those that `adapt.on` chooses, where they are not set explicitly; without it, unchanged.

    The optimizer's stay as they are where optim.name is given: they belong together.
    """
    if not settings.adapt.on:
        return settings
    said = cli.explicit(settings)
    chosen = CHOICES | (WITH_LORA if settings.lora else {})
    chosen |= {name: value for name in ("layer_decay", "stem_lr") if (value := getattr(settings.optim, name)) is not None}
    missing = {name: value for name, value in chosen.items() if getattr(settings.adapt, name) is None}
    changes: dict[str, Any] = {"adapt": dataclasses.replace(settings.adapt, **missing)}
    if "optim.name" not in said:
        optim = {name: value for name, value in OPTIM.items() if f"optim.{name}" not in said}
        changes["optim"] = dataclasses.replace(settings.optim, **optim)
    if "clip" not in said:
        changes["clip"] = CLIP
    chosen = dataclasses.replace(settings, **changes)
    object.__setattr__(chosen, "origin", settings.origin)  # what was set explicitly stays known
    return chosen


def check(settings: PretrainSettings) -> None:
    """Refuse what cannot be meant before anything is loaded.  Raises ValueError."""
    flat = cli.flat(settings)
    for name in NEED_WEIGHTS:
        if flat[name] not in (None, False) and not trained(settings):
            way = "add pretrained=true, weights=FILE, or encoder=an encoder.safetensors"
            way = "leave scratch out" if settings.scratch else way
            raise ValueError(f"{name}={_text(flat[name])}: there are no trained weights to begin with; {way}")
    if settings.adapt.on and (settings.method or {}).get("frozen_patch_embedding"):
        raise ValueError("method.frozen_patch_embedding=true: replaces the positions of the trained weights by others; "
                         "set it to false with adapt")
    if settings.adapt.stop_on_alarm and not settings.adapt.on and settings.adapt.keep is None:
        raise ValueError("adapt.stop_on_alarm=true: there is no alarm without adapt=true")
    old = settings.adapt.old_data
    if old is not None and not cli.expand(old).is_dir():
        raise ValueError(f"adapt.old_data={old}: there is no such folder of images")
    if (settings.adapt.warmup or 0) + (settings.adapt.ramp or 0) > 1:
        raise ValueError(f"adapt.warmup={settings.adapt.warmup:g}: must be, with adapt.ramp={settings.adapt.ramp:g}, at most 1")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
