# ruff: noqa: RUF009 (`option` makes fields)
"""The settings that tools share: types, defaults, help. A tool's own are in its package's settings.py.

Imports no torch, so that --help answers at once; core/cli.py makes these objects of the command line.
"""
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar


def option(default: Any, help: str) -> Any:
    """A field of a settings class."""
    factory = {"default_factory": lambda: default} if isinstance(default, (list, dict)) else {"default": default}
    return field(**factory, metadata={"help": help})


class Group(Mapping[str, Any]):
    """The choice of a group, as method=simclr: its `name`, and the settings in it by attribute or by key. Read-only.

    A mapping inside it is a Group too, without a name.
    """

    def __init__(self, name: str, values: Mapping[str, Any]):
        inner = {key: Group("", value) if isinstance(value, Mapping) else value for key, value in values.items()}
        self.__dict__.update(name=name, _values=types.MappingProxyType(inner))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        if key == "_values" or key not in self._values:
            raise AttributeError(key)
        return self._values[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"{key}: settings are read-only")

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {dict(self._values)!r})"

    def __reduce__(self):
        return Group, (self.name, dict(self._values))


@dataclass(frozen=True)
class Origin:
    """Where settings come from."""

    overrides: tuple[str, ...] = ()  # what the command line and a recipe file say, in Hydra's grammar
    from_recipe: frozenset[str] = frozenset()  # names that the recipe file says and the command line does not


@dataclass(frozen=True)
class Settings:
    """What the settings of all tools derive from. Complete, typed and read-only; `dataclasses.replace` changes them."""

    origin: ClassVar[Origin] = Origin()


@dataclass(frozen=True)
class OptimSettings:
    name: str = option("adamw", "lars | sgd | adamw")
    lr: float = option(1e-3, "for 256 images; `scaling` makes it the batch's")
    scaling: str = option("linear", "lr × batch/256 (linear), × √(batch/256) (sqrt), or as it is (none)")
    weight_decay: float = option(1e-4, "biases and norms are left out, unless decay_all")
    momentum: float = option(0.9, "of lars and sgd")
    betas: list[float] = option([0.9, 0.999], "of adamw")
    eta: float = option(0.001, "lars's trust coefficient")
    lars_clip: bool = option(False, "lars may only shrink a step (LARC)")
    decay_all: bool = option(False, "weight decay on biases and norms too")
    bias_scale: float = option(1.0, "lr of biases and norms, as a share of lr")
    end_weight_decay: float | None = option(None, "where weight decay ends, along a cosine; null: it stays")
    warmup: float = option(0.1, "share of the run over which lr rises linearly")
    warmup_lr: float = option(0.0, "where it rises from")
    end_lr: float = option(0.0, "where the cosine ends")


@dataclass(frozen=True)
class CommonSettings(Settings):
    """Of every tool that reads images."""

    data: Group | None = option(None, "what to run on")
    encoder: str = option("small", "small, any timm name, or an encoder.safetensors")
    stem: str = option("auto", "auto (small up to 64 px) | small (3×3, stride 1, no pooling) | half (stride 2) | full")
    pretrained: bool = option(False, "timm's published weights")
    image_size: int = option(224, "pixels a side")
    seed: int = option(0, "of every random number")
    device: str = option("auto", "auto | cpu | cuda")
    devices: int = option(1, "processes, one a GPU; several on a CPU work too")
    workers: int = option(-1, "processes that decode image files; -1: one a core that is free")
    out: str = option("auto", "run folder; auto: runs/… named by the configuration")


@dataclass(frozen=True)
class TrainingSettings(CommonSettings):
    """Of every tool that trains."""

    method: Group | None = option(None, "what to train with")
    augment: Group | None = option(None, "how views are made")
    epochs: float = option(100, "passes over the images")
    steps: int | None = option(None, "optimizer steps, instead of epochs")
    batch_size: int = option(256, "images a step, over all processes")
    accumulate: int = option(1, "pieces of a process's share of the batch; each has only its own negatives: see chunk")
    chunk: int | None = option(None, "images of a process that pass the encoder at a time; exact gradients (GradCache)")
    clip: float | None = option(None, "largest norm of the gradient")
    optim: OptimSettings = field(default_factory=OptimSettings, metadata={"help": ""})
    precision: str = option("auto", "auto | fp32 | bf16; auto: bf16 where the device is faster with it")
    compile: bool = option(False, "torch.compile the encoder")
    resume: str = option("auto", "auto (go on where the folder's run stopped) | never")
    checks: int = option(10, "checks on validation images in a run")
    log_every: int = option(10, "steps between rows of metrics.jsonl")
    trackers: str = option("tensorboard", "tensorboard, wandb, mlflow, by comma, or none: where figures go, offline by default")
    save_minutes: float = option(5, "minutes between saves, beside those at checks")


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    scratch: bool = option(False, "of an encoder file take the architecture alone, with random weights")
    stop_on_collapse: bool = option(True, "end a run whose features collapse")
    until: float | None = option(None, "epochs after which to pause; the same command without it goes on")
    report: bool = option(True, "pictures, and scores at the end")


@cache
def types_of(kind: type) -> dict[str, type]:
    """Dotted setting → its type, without "or None"."""
    return _types(kind)


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


def document(settings: Settings) -> dict[str, Any]:
    """What config.yaml holds: all settings, and under `chosen` the name of each group's choice."""
    return plain(settings) | {"chosen": choices(settings)}


def help_text(summary: str, kind: type, groups: dict[str, list[str]]) -> str:
    lines = [summary, "", "Settings: --name value, --name=value or name=value.", ""]
    for group, found in groups.items():
        lines.append(f"  {group:<22} {' | '.join(found)}")
    lines += ["", f"  {'setting':<22} {'default':<12} meaning"]
    lines += _help_rows(kind, "", set(groups))
    lines += [
        "",
        "A method, data set or recipe has settings of its own and may set others: method.temperature, data.root,",
        "augment.crop=[0.2,1.0], …: --help method=simclr lists a choice's own.",
        "A file of settings: --recipe PATH.yaml (many in experiments/recipes); the command line wins.",
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
            rows.append(f"  {prefix + f.name:<22} {shown!s:<12} {f.metadata['help']}")
    return rows
