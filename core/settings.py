# ruff: noqa: RUF009 (`option` makes fields)
"""The settings that tools share: types, defaults, help; and settings as values by name. A tool's own are in its package's
settings.py, what both are made of in core/setting_fields.py.

Imports no torch, so that --help answers at once; core/cli.py makes these objects of the command line.
"""
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from core import image_size
from core.image_size import Size
from core.setting_fields import NATURAL, POSITIVE, SHARE, Group, Range, Settings, option


@dataclass(frozen=True)
class OptimSettings:
    name: str = option("adamw", "lars | sgd | adamw | lamb | muon", ("lars", "sgd", "adamw", "lamb", "muon"))
    lr: float = option(1e-3, "for 256 images (reference_batch); `scaling` makes it the batch's", POSITIVE)
    scaling: str = option(
        "linear", "lr × batch/256 (linear), × √(batch/256) (sqrt), or as it is (none)",
        ("linear", "sqrt", "none"),
    )
    reference_batch: int = option(256, "the batch that lr is for, as `scaling` counts", POSITIVE, original_default=256)
    weight_decay: float = option(1e-4, "biases and norms are left out, unless decay_all", NATURAL)
    momentum: float = option(0.9, "of lars, sgd and muon", SHARE)
    betas: list[float] = option([0.9, 0.999], "of adamw and lamb, and of muon where it is adamw")
    eta: float = option(0.001, "lars's trust coefficient", POSITIVE)
    lars_clip: bool = option(False, "lars may only shrink a step (LARC)")
    decay_all: bool = option(False, "weight decay on biases and norms too")
    no_decay: list[str] = option(
        [], "further parameters without weight decay, such as [pos_embed,cls_token,reg_token,mask_token]", original_default=[]
    )
    layer_decay: float | None = option(
        None, "of ssl.pretrain: rate of an encoder's layer as a share of the next one's, as adapt.layer_decay; null: 1",
        Range("more than 0, at most 1", above=0, high=1), original_default=None,
    )
    stem_lr: float | None = option(
        None, "of ssl.pretrain: further share for the rate of the patch embedding or stem; null: 1", NATURAL,
        original_default=None,
    )
    bias_scale: float = option(1.0, "lr of biases and norms, as a share of lr", NATURAL)
    end_weight_decay: float | None = option(None, "where weight decay ends, along a cosine; null: it stays", NATURAL)
    warmup: float = option(0.1, "share of the run over which lr rises linearly", SHARE)
    warmup_lr: float = option(0.0, "where it rises from", NATURAL)
    end_lr: float = option(0.0, "where the cosine ends", NATURAL)
    schedule: str = option(
        "cosine", "after the warm-up: cosine (down to end_lr) | constant", ("cosine", "constant"), original_default="cosine",
    )


@dataclass(frozen=True)
class CommonSettings(Settings):
    """Of every tool that reads images."""

    data: Group | None = option(None, "what to run on")
    encoder: str = option("small", "small, any timm name, or an encoder.safetensors", path="weights")
    stem: str = option(
        "auto", "auto (small up to 64 px) | small (3×3, stride 1, no pooling) | half (stride 2) | full",
        ("auto", "small", "half", "full"),
    )
    pretrained: bool = option(False, "timm's published weights")
    weights: str | None = option(
        None, "another program's weights (.pth .pt .bin .ckpt .tar .safetensors) for the timm architecture that encoder names",
        original_default=None,
    )
    normalization: str = option(
        "auto", "auto (what the weights were trained with, else the data's) | data | weights (timm's for the name) | "
        "imagenet | mean;std of pixels in 0..1, such as '0.5,0.4,0.3;0.2'", original_default="auto",
    )
    image_size: Size = option(224, "pixels a side; or height and width, such as 96x128 or [96,128]", parse=image_size.parse)
    image_fit: str = option(
        "auto", "how an image gets that shape in evaluation: auto (as the encoder's file says, or crop) | crop (the center) | "
        "squash | letterbox (mean around it)", ("auto", "crop", "squash", "letterbox"), original_default="auto",
    )
    seed: int = option(0, "random seed", Range("from 0 to 2**63 - 1", low=0, high=2**63 - 1))
    device: str = option("auto", "auto | cpu | cuda", affects_result=False)
    devices: int = option(1, "processes, one a GPU; several on a CPU work too", POSITIVE, affects_result=False)
    workers: int = option(
        -1, "processes that decode image files; -1: one a core that is free",
        Range("-1 (as many as fit) or a number of processes", low=-1), affects_result=False,
    )
    out: str = option("auto", "run folder; auto: runs/… named by the configuration", affects_result=False, path="folder")


@dataclass(frozen=True)
class TrainingSettings(CommonSettings):
    """Of every tool that trains."""

    method: Group | None = option(None, "what to train with")
    augment: Group | None = option(None, "how views are made")
    epochs: float = option(100, "passes over the images", POSITIVE)
    steps: int | None = option(None, "optimizer steps, instead of epochs", POSITIVE)
    batch_size: int = option(256, "images a step, over all processes", POSITIVE)
    accumulate: int = option(
        1, "pieces of a process's share of the batch; each has only its own negatives: see chunk",
        POSITIVE,
    )
    chunk: int | None = option(
        None, "images of a process that pass the encoder at a time; exact gradients (GradCache)",
        POSITIVE,
    )
    clip: float | None = option(None, "largest norm of the gradient", POSITIVE)
    clip_by: str = option(
        "all", "what clip is the norm of: all parameters, or each module's of the method by itself (encoder, projector, …)",
        ("all", "module"), original_default="all",
    )
    optim: OptimSettings = field(default_factory=OptimSettings, metadata={"help": ""})
    precision: str = option(
        "auto", "auto | fp32 | bf16; auto: bf16 where the device is faster with it",
        ("auto", "fp32", "bf16"),
    )
    compile: bool = option(False, "torch.compile the encoder")
    graph: bool = option(
        False, "record forward and backward as a CUDA graph and replay it: small steps on one GPU", affects_result=False,
    )
    checkpointing: bool = option(
        False, "keep the inputs of the encoder's blocks alone, and compute the rest again: less memory, the same gradient",
        affects_result=False,
    )
    resume: str = option("auto", "auto (resume the folder's run) | never", ("auto", "never"), affects_result=False)
    evals: int = option(10, "evaluations on validation images in a run", POSITIVE, affects_result=False, once="checks")
    log_every: int = option(10, "steps between rows of metrics.jsonl", POSITIVE, affects_result=False)
    trackers: str = option(
        "tensorboard", "tensorboard, wandb, mlflow, trackio, by comma, or none: where figures go, offline by default",
        affects_result=False,
    )
    save_minutes: float = option(5, "minutes between saves, beside those at evaluations", POSITIVE, affects_result=False)


@dataclass(frozen=True)
class AdaptSettings:
    """Continued pretraining from trained weights (ssl/adapt.py). null: as `on` has it; without `on`, nothing."""

    on: bool = option(
        False, "--adapt: go on from trained weights: heads first, low rates, averaged weights, an alarm", original_default=False
    )
    warmup: float | None = option(
        None, "share of the run in which the heads train alone; null: 0.1", SHARE, original_default=None
    )
    ramp: float | None = option(
        None, "share of the run over which the encoder's rate then rises; null: 0.1", SHARE, original_default=None
    )
    encoder_lr: float | None = option(None, "the encoder's rate, as a share of lr; null: 0.1", POSITIVE, original_default=None)
    layer_decay: float | None = option(
        None, "rate of a layer (a stage, without attention) as a share of the next one's; null: 0.8",
        Range("more than 0, at most 1", above=0, high=1), original_default=None,
    )
    stem_lr: float | None = option(None, "further share for the stem's rate; null: 0.2", NATURAL, original_default=None)
    ema: float | None = option(
        None, "momentum of the encoder's average, which is the result; null: 1 - 10/steps; 0: none", SHARE,
        original_default=None,
    )
    batchnorm: str | None = option(
        None, "fixed (statistics stay the weights') | train | auto: fixed, unless the stem is new; null: auto",
        ("auto", "fixed", "train"), original_default=None,
    )
    keep: str | None = option(
        None, "best | last | start-if-worse: which weights to keep, by kNN or else RankMe on validation images; null: best",
        ("best", "last", "start-if-worse"), original_default=None,
    )
    old_data: str | None = option(None, "folder of images of the weights' former domain, watched too", affects_result=False)
    stop_on_alarm: bool = option(False, "end a run that two checks in a row find worse than its start", affects_result=False)


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    scratch: bool = option(False, "of an encoder file take the architecture alone, with random weights", original_default=False)
    from_run: str | None = option(
        None, "--from: a run's folder, to begin with its encoder, heads, teacher and memories (method.safetensors)",
        original_default=None, short="from",
    )
    plan: bool = option(
        True, "of ssl.pretrain and nas.search on a folder: settings not given are chosen by its images and this machine",
        affects_result=False,
    )
    budget: str | None = option(None, "train for so long, such as 20m or 1h30m, in place of epochs", original_default=None)
    adapt: AdaptSettings = field(default_factory=AdaptSettings, metadata={"help": ""})
    lora: int | None = option(
        None, "rank of the changes that alone are trained in attention, or in 1×1 convolutions (LoRA)", POSITIVE,
        original_default=None,
    )
    shard: bool = option(
        False, "spread parameters, gradients and optimizer states over the processes (FSDP2): less memory, the same gradient",
        affects_result=False,
    )
    stop_on_collapse: bool = option(True, "end a run whose features collapse", affects_result=False)
    pause_at: float | None = option(
        None, "epochs after which to pause; the same command without it resumes",
        POSITIVE, affects_result=False, once="until",
    )
    report: bool = option(True, "pictures, and scores at the end", affects_result=False)


@cache
def types_of(kind: type) -> dict[str, type]:
    """Dotted setting → its type, without "or None"."""
    return _types(kind)


@cache
def marked(kind: type[Settings], mark: str, prefix: str = "") -> dict[str, Any]:
    """Dotted setting → what its field says of `mark`: "allowed", "affects_result", … For those whose field says anything."""
    out = {}
    for f in dataclasses.fields(kind):
        hint = hints(kind)[f.name]
        if dataclasses.is_dataclass(hint):
            out |= marked(hint, mark, f"{prefix}{f.name}.")
        elif mark in f.metadata:
            out[prefix + f.name] = f.metadata[mark]
    return out


def refuse(flat: Mapping[str, Any], wrong: Mapping[str, str]) -> None:
    """Raise ValueError for the first wrong setting.  flat: dotted setting → value; wrong: setting → what would be right"""
    for name, right in wrong.items():
        raise ValueError(f"{name}={flat[name]}: must be {right}")


def check_allowed(settings: "Settings") -> None:
    """Raises ValueError for a setting that its field does not allow."""
    values = flat(settings)
    allowed = {name: a for name, a in marked(type(settings), "allowed").items() if a is not None and values[name] is not None}
    wrong = {name: " or ".join(a) if isinstance(a, tuple) else str(a) for name, a in allowed.items() if values[name] not in a}
    refuse(values, wrong)


@cache
def texts_of(kind: type) -> set[str]:
    """The settings whose value is text."""
    texts = {name for name, type_ in types_of(kind).items() if type_ is str}
    return texts | {"data.root", "method", "data", "augment", "protocol"}


def _types(kind: type, prefix: str = "") -> dict[str, type]:
    out = {}
    for name, hint in hints(kind).items():
        out |= _types(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {f"{prefix}{name}": hint}
    return out


@cache
def hints(kind: type) -> dict[str, type]:
    """Field → its type, without "or None"; of a choice of a group, Group."""
    given = typing.get_type_hints(kind)
    found = {field.name: given[field.name] for field in dataclasses.fields(kind)}
    return {name: typing.get_args(h)[0] if isinstance(h, types.UnionType) else h for name, h in found.items()}


def plain(settings: Any) -> Any:
    """Settings, or a part of them, as plain dicts and lists."""
    if dataclasses.is_dataclass(settings):
        return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {name: plain(value) for name, value in settings.items()}
    return [plain(value) for value in settings] if isinstance(settings, (list, tuple)) else settings


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value."""
    out = {}
    for name, value in plain(settings).items():
        path = f"{prefix}{name}"
        out.update(flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return out


def choices(settings: Settings) -> dict[str, str]:
    """Group → the name of its choice."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return {name: value.name for name, value in values.items() if isinstance(value, Group)}


def document(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """What config.yaml holds: all settings, and under `chosen` the name of each group's choice. A mapping stays as it is."""
    return plain(settings) | {"chosen": choices(settings)} if isinstance(settings, Settings) else dict(settings)
