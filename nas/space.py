"""Search spaces. A space is one function of an Optuna trial, ours and yours alike.

    def space(trial, channels, size):                       # size: pixels a side, or (height, width); channels of the images
        depth = trial.suggest_int("depth", 1, 4)
        return Spec("vit_tiny_patch16_224", channels, size, arguments={"img_size": size, "depth": depth})

A space may name the parameters that a search begins with, such as those of the encoder to beat: `space.first = {"depth": 2}`,
or a function of channels and size.

`--space resnet` names one of ours, `--space my_file.py:space` yours. What it returns is how to build an encoder
(`encoders.Spec`), or a timm name. Together with the hyperparameters that `--tune` names it makes a `Candidate`, whose hash says
whether two trials are the same.
"""
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import BaseTrial

from core import cli
from core.errors import SettingError
from core.image_size import Size, parse, sides, size_text
from nas.settings import STRENGTH, Tuned, parse_space
from vision import encoders
from vision.encoders import Spec
from vision.input_sizes import is_small, patches_of

Space = Callable[[BaseTrial, int, Size], Spec | str]


@dataclass(frozen=True)
class Candidate:
    """An architecture and the hyperparameters to train it with."""

    spec: Spec
    settings: dict[str, float | int | str | list] = field(default_factory=dict)  # of ssl.pretrain, by dotted name

    @property
    def json(self) -> dict:
        return json.loads(json.dumps({"encoder": self.spec.json, "words": dict(sorted(self.settings.items()))}))

    @property
    def hash(self) -> str:
        """Equal for candidates that train alike, whatever the order or container of their values."""
        return hashlib.sha256(json.dumps(self.json, sort_keys=True).encode()).hexdigest()[:16]

    @staticmethod
    def from_json(stored: dict) -> "Candidate":
        return Candidate(Spec.of(stored["encoder"]), stored["words"])


# ------------------------------------------------------------------------------------------------------------ our spaces


def resnet(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """Residual networks: stem and its stride, three or four stages of own depth, width and kernel, block, attention,
    activation, resolution.
    """
    small = is_small(size)
    stages = trial.suggest_int("stages", 3, 4)
    width = trial.suggest_categorical("width", [8, 16, 24, 32, 48] if small else [16, 24, 32, 48, 64])
    block = trial.suggest_categorical("block", ["basic", "bottleneck"])
    rows = []
    for i in range(stages):
        growth = trial.suggest_categorical(f"growth{i}", [1.0, 1.5, 2.0]) if i else 1.0
        width = _round(width * growth * (4 if block == "bottleneck" and i == 0 else 1), 8)
        depth = trial.suggest_int(f"depth{i}", 1, 3)
        rows.append((block, depth, width, trial.suggest_categorical(f"kernel{i}", [3, 5])))
    arguments = {
        "stages": tuple(rows),
        "attention": trial.suggest_categorical("attention", ["none", "se", "cbam"]),
        "activation": trial.suggest_categorical("activation", ["relu", "silu"]),
        "stem_width": trial.suggest_categorical("stem_width", [8, 16, 32]),
    }
    stem = trial.suggest_categorical("stem", ["half", "small"]) if small else "full"
    return Spec("searched_resnet", channels, _resolution(trial, size), stem, arguments)


def resnetd(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """ResNet-D of basic blocks, the family of `small` and `tiny` (arXiv 1812.01187): depth and width of four stages, the
    stem's width and, of small images, its stride; activation; pooling by the mean, or by mean and maximum side by side, which
    doubles the features; whether residual branches begin at zero. A search begins with `small`, or its double beyond 64 pixels.
    """
    small = is_small(size)
    widths = [[16, 24, 32, 40], [32, 48, 64, 80], [64, 96, 128, 160], [256, 320, 384, 512]]
    scale = 1 if small else 2
    arguments = {
        "layers": tuple(trial.suggest_int(f"depth{i}", 1, 2) for i in range(4)),
        "channels": tuple(scale * trial.suggest_categorical(f"width{i}", options) for i, options in enumerate(widths)),
        "stem_width": scale * trial.suggest_categorical("stem_width", [8, 16, 24]),
    }
    stem = trial.suggest_categorical("stem", ["half", "small"]) if small else "full"
    optional = {
        "act_layer": trial.suggest_categorical("activation", ["relu", "silu", "gelu"]),
        "global_pool": trial.suggest_categorical("pool", ["avg", "catavgmax"]),
        "zero_init_last": trial.suggest_categorical("zero_init", [True, False]),
    }
    default = {"act_layer": "relu", "global_pool": "avg", "zero_init_last": True}  # timm's, left out: the spec equals `small`'s
    return Spec("resnet18d", channels, size, stem, arguments | {k: v for k, v in optional.items() if v != default[k]})


def _small(channels: int, size: Size) -> dict:
    stem = "half" if max(sides(size)) > 16 else "small"  # as in encoders.create("small")
    return {f"depth{i}": 1 for i in range(4)} | {f"width{i}": 32 * 2**i for i in range(4)} | {
        "stem_width": 16, "stem": stem, "activation": "relu", "pool": "avg", "zero_init": True,
    }


resnetd.first = _small


def mobile(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """MBConv stages: expansion, depth, width and kernel of each, squeeze-and-excitation, activation, resolution."""
    small = is_small(size)
    width = trial.suggest_categorical("width", [8, 12, 16, 24, 32])
    rows = []
    for i in range(trial.suggest_int("stages", 3, 4)):
        width = _round(width * (trial.suggest_categorical(f"growth{i}", [1.0, 1.5, 2.0]) if i else 1.0), 4)
        expansion = trial.suggest_categorical(f"expansion{i}", [2, 3, 4, 6])
        rows.append((expansion, trial.suggest_int(f"depth{i}", 1, 3), width, trial.suggest_categorical(f"kernel{i}", [3, 5])))
    arguments = {
        "stages": tuple(rows),
        "se": trial.suggest_categorical("se", [False, True]),
        "activation": trial.suggest_categorical("activation", ["relu", "hard_swish"]),
        "stem_width": trial.suggest_categorical("stem_width", [8, 16, 24]),
        "head_width": trial.suggest_categorical("head_width", [128, 256, 512]),
    }
    stem = trial.suggest_categorical("stem", ["half", "small"]) if small else "full"
    return Spec("searched_mobile", channels, _resolution(trial, size), stem, arguments)


def vit(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """Vision transformers: patch, depth, width a head, heads, width of the MLP."""
    if not (patches := patches_of(size)):
        raise SettingError("image_size", f"{size_text(size)}: no patch of 1/16 to 1/4 of the shorter side divides both sides")
    patch = trial.suggest_categorical("patch", patches)
    heads = trial.suggest_int("heads", 1, 6)
    arguments = {
        "img_size": size, "patch_size": patch, "depth": trial.suggest_int("depth", 2, 12), "num_heads": heads,
        "embed_dim": heads * trial.suggest_categorical("head_width", [16, 32, 64]),
        "mlp_ratio": trial.suggest_categorical("mlp_ratio", [1.0, 2.0, 3.0, 4.0]),
    }
    return Spec("vit_tiny_patch16_224", channels, size, "full", arguments)


def tabular(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """256 residual networks of two stages, few enough to train them all (experiments/tabular.py)."""
    width, kernel = trial.suggest_categorical("width", [8, 12, 16, 24]), trial.suggest_categorical("kernel", [3, 5])
    block = trial.suggest_categorical("block", ["basic", "bottleneck"])
    first, second = trial.suggest_int("depth0", 1, 2), trial.suggest_int("depth1", 1, 2)
    arguments = {
        "stages": ((block, first, width, kernel), (block, second, 2 * width, kernel)),
        "attention": trial.suggest_categorical("attention", ["none", "se"]),
        "activation": trial.suggest_categorical("activation", ["relu", "silu"]),
        "stem_width": width,
    }
    return Spec("searched_resnet", channels, size, "half", arguments)


def elastic(trial: BaseTrial, channels: int, size: Size) -> Spec:
    """Residual networks that are all parts of the largest one (vision/elastic.py): depth, width and kernel of each stage."""
    small = is_small(size)
    widest = (32, 64, 96, 160) if max(sides(size)) > 16 else (32, 64, 96)
    rows = []
    for i, maximum in enumerate(widest if small else [2 * width for width in widest]):
        depth = trial.suggest_int(f"depth{i}", 1, 2 if small else 3)
        width = trial.suggest_categorical(f"width{i}", [int(maximum * share) for share in (0.5, 0.75, 1.0)])
        rows.append(("basic", depth, width, trial.suggest_categorical(f"kernel{i}", [3, 5])))
    arguments = {"stages": tuple(rows), "stem_width": 8 if small else 24}  # no first stage's width: its shortcut must stay
    return Spec("searched_resnet", channels, size, "half" if small else "full", arguments)


SPACES: dict[str, Space] = {
    "resnet": resnet, "resnetd": resnetd, "mobile": mobile, "vit": vit, "tabular": tabular, "elastic": elastic,
}


def _round(width: float, step: int) -> int:
    """Channels in multiples of four or eight: timm's ByobNet would round to eight itself, and two candidates be one encoder."""
    return max(step, round(width / step) * step)


def _resolution(trial: BaseTrial, size: Size) -> Size:
    """The images' size, or three quarters or half of it where that leaves enough for the stages. Optuna takes no pairs: a
    rectangle is a text for it, such as 48x64.
    """
    height, width = sides(size)
    shares = ((height // 2, width // 2), (height * 3 // 4, width * 3 // 4), (height, width))
    found = [f"{h}x{w}" if height != width else h for h, w in shares if min(h, w) >= 14]
    return parse(trial.suggest_categorical("resolution", found)) if len(found) > 1 else size


class StubTrial:
    """Stands in for an Optuna trial. `pick` says which of so many options, in rising order, is suggested."""

    def __init__(self, pick: Callable[[int], int]):
        self.pick = pick

    def suggest_categorical(self, name: str, choices):
        return choices[self.pick(len(choices))]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self.suggest_categorical(name, range(low, high + 1, step))

    def suggest_float(self, name: str, low: float, high: float, **options) -> float:
        raise ValueError(f"{name}: only integers and choices among options have a largest encoder")


largest, smallest = StubTrial(lambda count: count - 1), StubTrial(lambda count: 0)


# ------------------------------------------------------------------------------------------------- by name, and what to tune


def space_by_name(name: str) -> Space:
    """A space of ours, "names:resnet18,vit_tiny_patch16_224" for a set of timm's, or "file.py:function".

    Raises ValueError, one line.
    """
    kind, rest = parse_space(name)
    if kind in SPACES:
        return SPACES[kind]
    if kind == "names":
        return lambda trial, channels, size: trial.suggest_categorical("name", rest.split(","))
    path = cli.expand(kind)
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's does when it is run
        raise ValueError(f"space={name}: {path} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, rest, None)):
        raise ValueError(f"space={name}: {path} has no function {rest}")
    return getattr(module, rest)


class InitialTrial(StubTrial):
    """Suggests given values, elsewhere the least.  Raises InvalidParam where a value is none of the options."""

    def __init__(self, params: dict):
        super().__init__(lambda count: 0)
        self.params = params

    def suggest_categorical(self, name: str, choices):
        if name not in self.params:
            return super().suggest_categorical(name, choices)
        if self.params[name] not in choices:
            shown = f"{choices[0]} to {choices[-1]}" if isinstance(choices, range) else ", ".join(map(str, choices))
            raise InvalidParam(f"{name}={self.params[name]} is not among {shown}")
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, **options) -> float:
        value = self.params.get(name, low)
        if not low <= value <= high:
            raise InvalidParam(f"{name}={value} is not from {low:g} to {high:g}")
        return value


class InvalidParam(ValueError):
    """A parameter cannot have this value."""


def initial_params(name: str, space: Space, channels: int, size: Size, tune: list[Tuned], flat: dict) -> dict | None:
    """The parameters that a search of the space begins with, those of `tune` at the settings' own values; None: any.

    Raises ValueError for a value that the space does not offer; parameters that it does not have may be named.
    """
    params = getattr(space, "first", None)
    if callable(params):
        params = params(channels, size)
    if not params:
        return None
    try:
        space(InitialTrial(params), channels, size)
    except InvalidParam as error:
        raise ValueError(f"space={name}: first: {error}") from error
    except Exception:  # of the parameters that it leaves open; a trial will show it
        pass
    for t in tune:
        value = min(max(1.0 if t.setting == STRENGTH else flat[t.setting], t.low), t.high)
        params = params | ({f"log2 {t.setting}": round(math.log2(value))} if t.integer else {t.setting: value})
    return params


def sample(trial: BaseTrial, space: Space, channels: int, size: Size, tune: list[Tuned], flat: dict) -> Candidate:
    """The candidate of a trial's parameters. Numbers keep four digits: what differs less trains alike."""
    spec, settings = space(trial, channels, size), {}
    if isinstance(spec, str):
        spec = encoders.create(spec, channels, size).spec
    for t in tune:
        if t.integer:  # widths of projections: powers of two
            value = 2 ** trial.suggest_int(f"log2 {t.setting}", round(math.log2(t.low)), round(math.log2(t.high)))
        else:
            value = float(f"{trial.suggest_float(t.setting, t.low, t.high, log=True):.4g}")
        settings |= _strength(value, flat) if t.setting == STRENGTH else {t.setting: value}
    return Candidate(spec, settings)


def _strength(value: float, flat: dict) -> dict:
    """Color distortion at `value` times the method's strength, as SimCLR scales it (arXiv 2002.05709, appendix A)."""
    jitter = {f"augment.{name}": flat.get(f"augment.{name}", 0.0) for name in ("brightness", "contrast", "saturation", "hue")}
    return {name: min(0.5 if name.endswith("hue") else 1.0, float(f"{v * value:.4g}")) for name, v in jitter.items() if v}
