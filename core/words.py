# ruff: noqa: RUF009 (`word` makes fields)
"""What tools understand: words, types, defaults, meanings. No torch here: --help answers at once."""
import dataclasses
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any


def word(default: Any, meaning: str) -> Any:
    factory = {"default_factory": lambda: default} if isinstance(default, (list, dict)) else {"default": default}
    return field(**factory, metadata={"meaning": meaning})


@dataclass
class Optim:
    name: str = word("adamw", "lars | sgd | adamw")
    lr: float = word(1e-3, "for 256 images; `scaling` makes it the batch's")
    scaling: str = word("linear", "lr × batch/256 (linear), × √(batch/256) (sqrt), or as it is (none)")
    weight_decay: float = word(1e-4, "biases and norms are left out, unless decay_all")
    momentum: float = word(0.9, "of lars and sgd")
    betas: list[float] = word([0.9, 0.999], "of adamw")
    eta: float = word(0.001, "lars's trust coefficient")
    lars_clip: bool = word(False, "lars may only shrink a step (LARC)")
    decay_all: bool = word(False, "weight decay on biases and norms too")
    bias_scale: float = word(1.0, "lr of biases and norms, as a share of lr")
    end_weight_decay: float | None = word(None, "where weight decay ends, along a cosine; null: it stays")
    warmup: float = word(0.1, "share of the run over which lr rises linearly")
    warmup_lr: float = word(0.0, "where it rises from")
    end_lr: float = word(0.0, "where the cosine ends")


@dataclass
class Common:
    """What every tool understands."""

    data: Any = word(None, "what to run on")
    encoder: str = word("small", "small, any timm name, or an encoder.safetensors")
    stem: str = word("auto", "auto (small up to 64 px) | small (3×3, stride 1, no pooling) | half (stride 2) | full")
    pretrained: bool = word(False, "timm's published weights")
    image_size: int = word(224, "pixels a side")
    seed: int = word(0, "of every random number")
    device: str = word("auto", "auto | cpu | cuda")
    devices: int = word(1, "processes, one a GPU; several on a CPU work too")
    workers: int = word(-1, "processes that decode image files; -1: one a core that is free")
    out: str = word("auto", "run folder; auto: runs/… named by the configuration")


@dataclass
class Words(Common):
    """What every tool that trains understands."""

    method: Any = word(None, "what to train with")
    augment: Any = word(None, "how views are made")
    epochs: float = word(100, "passes over the images")
    steps: int | None = word(None, "optimizer steps, instead of epochs")
    batch_size: int = word(256, "images a step, over all processes")
    accumulate: int = word(1, "pieces of a process's share of the batch; each has only its own negatives: see chunk")
    chunk: int | None = word(None, "images of a process that pass the encoder at a time; exact gradients (GradCache)")
    clip: float | None = word(None, "largest norm of the gradient")
    optim: Optim = field(default_factory=Optim, metadata={"meaning": ""})
    precision: str = word("auto", "auto | fp32 | bf16; auto: bf16 where the device is faster with it")
    compile: bool = word(False, "torch.compile the encoder")
    resume: str = word("auto", "auto (go on where the folder's run stopped) | never")
    checks: int = word(10, "checks on validation images in a run")
    log_every: int = word(10, "steps between rows of metrics.jsonl")
    trackers: str = word("tensorboard", "tensorboard, wandb, mlflow, by commas, or none: where figures go, offline by default")
    save_minutes: float = word(5, "minutes between saves, beside those at checks")


@dataclass
class PretrainWords(Words):
    scratch: bool = word(False, "of an encoder file take the architecture alone, with random weights")
    stop_on_collapse: bool = word(True, "end a run whose features collapse")
    until: float | None = word(None, "epochs after which to pause; the same command without it goes on")
    report: bool = word(True, "pictures, and scores at the end")


@cache
def types_of(words: type) -> dict[str, type]:
    """Dotted word → its type, without "or None"."""
    return _types(words)


@cache
def texts_of(words: type) -> set[str]:
    """The words whose value is text."""
    texts = {name for name, kind in types_of(words).items() if kind is str}
    return texts | {"data.root", "method", "data", "augment", "protocol"}


def _types(kind: type, prefix: str = "") -> dict[str, type]:
    out = {}
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, types.UnionType):
            hint = typing.get_args(hint)[0]
        out |= _types(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {f"{prefix}{name}": hint}
    return out


def help_text(summary: str, words: type, groups: dict[str, list[str]]) -> str:
    lines = [summary, "", "Words: --name value, --name=value or name=value.", ""]
    for group, found in groups.items():
        lines.append(f"  {group:<22} {' | '.join(found)}")
    lines += ["", f"  {'word':<22} {'default':<12} meaning"]
    lines += _help_rows(words, "", set(groups))
    lines += [
        "",
        "A method, data set or recipe has its own words and may set others: method.temperature, data.root,",
        "augment.crop=[0.2,1.0], …; a run's config.yaml lists them all with their values.",
        "A file of words: --recipe PATH.yaml (many in experiments/recipes); what the command line says itself wins.",
        "Several runs: --multirun seed=0,1,2 (Hydra's sweeps; hydra/launcher=submitit_slurm on a cluster).",
    ]
    return "\n".join(lines)


def _help_rows(kind, prefix: str, skip: set[str]) -> list[str]:
    rows = []
    for f in dataclasses.fields(kind):
        if f.name in skip:
            continue
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        if dataclasses.is_dataclass(default):
            rows += _help_rows(type(default), f"{prefix}{f.name}.", skip)
        else:
            shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
            shown = f"[{','.join(map(str, default))}]" if isinstance(default, list) else shown
            rows.append(f"  {prefix + f.name:<22} {shown!s:<12} {f.metadata['meaning']}")
    return rows
