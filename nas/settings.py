# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of a search beside those of pretraining, and the short texts in them. Imports no torch."""
import math
from dataclasses import dataclass
from typing import NamedTuple

from core import cli, image_size, ranges
from core.image_size import Size
from core.setting_fields import Settings
from core.settings import NATURAL, POSITIVE, PretrainSettings, Range, option
from deploy.settings import ExportSettings

LATENCY_BATCH = 64  # of latency_batch
OBJECTIVES = {  # name → direction, unit, meaning
    "knn": ("maximize", "%", "kNN accuracy on validation images"),
    "logistic": ("maximize", "%", "logistic regression on validation images"),
    "loss": ("minimize", "", "the method's own loss on validation images: no labels needed"),
    "rankme": ("maximize", "", "effective rank of validation features: no labels needed"),
    "proxy": ("maximize", "", "the score of --proxy, without training"),
    "parameters": ("minimize", "M", "parameters"),
    "macs": ("minimize", "M", "multiply-adds of an image"),
    "memory": ("minimize", "MB", "weights and the two largest neighbouring maps, batch 1"),
    "latency": ("minimize", "ms", "median of a forward pass of one image, here"),
    "latency_p95": ("minimize", "ms", "its 95th percentile"),
    "latency_batch": ("minimize", "ms", f"median of a forward pass of {LATENCY_BATCH} images, here"),
    "size": ("minimize", "MB", "encoder.safetensors, float32"),
    "int8_accuracy": ("maximize", "%", "knn, or logistic where that is an objective, of the INT8 network"),
    "int8_latency": ("minimize", "ms", "median of one image in INT8 by onnxruntime, on this CPU"),
    "int8_size": ("minimize", "MB", "ONNX file in INT8"),
    "peak_memory": ("minimize", "MB", "what a process grows by that runs one image by onnxruntime, float32"),
}
OTHER_NAMES = {"linear": "logistic", "accuracy": "knn"}  # of objectives; studies begun with the former name, linear, resume
MEASURED = ("knn", "logistic", "loss", "rankme", "int8_accuracy")  # measured after training; the others before
DEPLOYED = ("int8_latency", "int8_size", "peak_memory")  # costs that take seconds: measured once a trial has its candidate
COSTS = ("parameters", "macs", "memory", "latency", "latency_p95", "latency_batch", "size", *DEPLOYED)
LIMITABLE = (*COSTS, "int8_accuracy")
TIMED = ("latency", "latency_p95", "latency_batch", "int8_latency")  # measured again at the end (nas/remeasure.py)
SAMPLERS = ("tpe", "gp", "model", "nsga2", "evolution", "random")
STRATEGIES = ("train", "supernet", "proxy")
PROXIES = ("synflow", "naswot", "zico", "az", "parameters", "macs")
SPACES = ("resnet", "resnetd", "mobile", "vit", "tabular", "elastic")  # nas/space.py's
SPACES_TEXT = " | ".join([*SPACES, "names:<timm names>", "<file>.py:<function>"])
SHORT = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "temperature": "method.temperature",
         "hidden": "method.hidden", "dim": "method.dim"}
STRENGTH = "augment.strength"  # no setting of its own: it scales color jitter


@dataclass(frozen=True)
class SupernetSettings(PretrainSettings):
    space: str = option("elastic", f"{SPACES_TEXT}; its encoders must be parts of the largest one")
    subnets: int = option(2, "sampled encoders a step, beside the largest and the smallest", NATURAL)


@dataclass(frozen=True)
class SearchSettings(PretrainSettings):
    study: str = option("search", "its name: the same name resumes it, or joins it")
    storage: str = option(
        "auto", "auto (a journal in runs/nas/<study>), a journal's path, or postgresql+psycopg://…",
        affects_result=False,
    )
    trials: int = option(30, "candidates to train in all; those beyond limits do not count", POSITIVE, affects_result=False)
    space: str = option("resnet", SPACES_TEXT)
    tune: str = option("", "hyperparameters to search too: lr,weight_decay,temperature,hidden,dim,strength or setting:low:high")
    objectives: str = option(
        "knn,macs", "knn | logistic | loss | rankme | int8_accuracy | parameters | macs | memory | size | latency… | "
        "int8_latency | int8_size | peak_memory, by commas",
    )
    limit: str = option("", "the most that is allowed, checked before training: macs:15,latency:2; of int8_accuracy the least")
    latency_profile: str = option(
        "", "file of nas.profile: latency and int8_latency are its predictions, and measured at the end on its device",
        affects_result=False,  # the plan keeps the profile itself, and refuses another (nas/plan.py)
    )
    around: str = option(
        "auto", "least:most, shares of the starting encoder's macs (most: parameters too); none; auto: 0.25:2 unless limit is",
        original_default="auto",  # a study keeps whether it was begun with it (nas/plan.py)
    )
    strategy: str = option(
        "train", "train | supernet (one training for all, then for the best) | proxy (no training)",
        STRATEGIES,
    )
    supernet_epochs: float = option(
        30, "of the supernet's training; `epochs` is then how long the finalists are trained",
        POSITIVE,
    )
    subnets: int = option(2, "sampled encoders a step of the supernet, beside the largest and the smallest", NATURAL)
    finalists: int = option(4, "how many of the supernet's best encoders are trained further", POSITIVE)
    proxy: str = option(
        "none", "synflow | naswot | zico | az | parameters | macs: the best of `candidates` is trained",
        ("none", *PROXIES),
    )
    candidates: int = option(4, "proposals a trial, of which a proxy picks one", POSITIVE)
    sampler: str = option("tpe", "tpe | gp | model | nsga2 | evolution | random", SAMPLERS)
    rungs: int = option(3, "of successive halving; 1: all trials are trained to the end", POSITIVE)
    factor: int = option(3, "a rung's epochs over those of the one before; 1/factor are promoted", Range("2 or more", above=1))
    parallel: int = option(0, "workers on this machine; 0: one a GPU, or one", NATURAL, affects_result=False)
    node: int = option(
        0, "of several machines on one study: --multirun node=0,1,2,3 hydra/launcher=submitit_slurm",
        affects_result=False,
    )
    budget: str | None = option(  # of the study
        None, "train for so long in all workers together, such as 40h; what has begun is not cut off",
        affects_result=False,
    )
    checkpoints: str = option(
        "unfinished", "unfinished | all: which trials keep last.pt, to be resumed from; those that are over need none",
        ("unfinished", "all"), affects_result=False,
    )
    promote: str = option(
        "auto", "what decides who is promoted: expected (of fresh seeds, by all figures) | measured; auto: expected, if new",
        ("auto", "expected", "measured"), original_default="auto",  # a study keeps what it was begun with
    )
    verify: int = option(
        0, "fresh seeds with which the best of the front and the start are trained again at the end", NATURAL,
        affects_result=False,
    )
    interval: float = option(
        60.0, "seconds; a worker's lease expires after twice that without a heartbeat", POSITIVE,
        affects_result=False,
    )


@dataclass(frozen=True)
class ProfileSettings(Settings):
    """Of nas.profile."""

    space: str = option("resnet", SPACES_TEXT)
    limit: str = option("", "networks within it alone, as in the search that it is for: macs:15,parameters:2,memory:10")
    networks: int = option(16, "networks to measure, spread over the space", Range("8 to 200", low=8, high=200))
    image_size: Size = option(224, "pixels a side, or 96x128 (height, width), as in the search", parse=image_size.parse)
    channels: int = option(3, "of the images, as in the search", POSITIVE)
    figures: str = option("latency,int8_latency", "latency (torch) | int8_latency (onnxruntime, on the CPU), by commas")
    threads: int = option(1, "of the CPU", POSITIVE)
    device: str = option("cpu", "cpu | cuda, of latency", ("cpu", "cuda"))
    seed: int = option(0, "of the sampled networks", NATURAL)
    out: str = option("auto", "file to write; auto: runs/profiles/<space>-<image_size>.json", affects_result=False)


@dataclass(frozen=True)
class FrontExportSettings(ExportSettings):
    """Of nas.export: deploy.export's, of each encoder of a front."""

    study: str = option("search", "the study's name")
    storage: str = option("auto", "as the search's: auto, a journal's path, or postgresql+psycopg://…", affects_result=False)


@dataclass(frozen=True)
class ReportSettings(SearchSettings):
    """Of nas.report, which needs a study's name and storage."""

    compare: str = option("", "other studies, by commas, whose fronts are shown beside this one's: compare.md and compare.png")


def parse_objectives(text: str) -> list[str]:
    """"knn,macs" → today's names of both."""
    return [OTHER_NAMES.get(name, name) for name in text.split(",")]


def parse_limits(text: str) -> dict[str, float]:
    """"macs:15,latency:2" → the maximum of each; of int8_accuracy the minimum.  Raises ValueError."""
    limits = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, maximum = part.partition(":")
        try:
            limits[name] = float(maximum)
        except ValueError as error:
            raise ValueError(f"limit={text}: written name:number, such as macs:15") from error
        if name not in LIMITABLE:
            raise ValueError(f"limit={text}: there are {', '.join(LIMITABLE)}")
        if not 0 < limits[name] < math.inf:
            raise ValueError(f"limit={text}: {name} must be a number above 0")
    return limits


def parse_around(text: str) -> tuple[float, float] | None:
    """"0.25:2" → the least and the most; "none" → None.  Raises ValueError."""
    if text in ("none", "auto"):
        return None
    least, _, most = text.partition(":")
    try:
        low, high = float(least), float(most)
    except ValueError as error:
        raise ValueError(f"around={text}: written least:most, such as 0.25:2, or none") from error
    if not 0 <= low <= 1 <= high < math.inf:
        raise ValueError(f"around={text}: the starting encoder, 1, must be within: 0 ≤ least ≤ 1 ≤ most")
    return low, high


def parse_space(text: str) -> tuple[str, str]:
    """"names:resnet18,vit_tiny_patch16_224" → "names" and the names; "file.py:function" → both; "resnet" → it and nothing.

    Raises ValueError.
    """
    kind, _, rest = text.partition(":")
    if text in SPACES:
        return text, ""
    if kind == "names":
        names = [name.strip() for name in rest.split(",")]
        if not all(names):
            raise ValueError(f"space={text}: written names:resnet18,vit_tiny_patch16_224")
        return kind, ",".join(names)
    if kind.endswith(".py") and rest:
        if not cli.expand(kind).is_file():
            raise ValueError(f"space={text}: there is no file {cli.expand(kind)}")
        return kind, rest
    raise ValueError(f"space={text}: there are {', '.join(SPACES)}, names:<timm names, by commas> and <file>.py:<function>")


class Tuned(NamedTuple):
    """A setting that a search tunes, and its range."""

    setting: str  # dotted
    low: float
    high: float
    integer: bool


def parse_tune(text: str, flat: dict) -> list[Tuned]:
    """"lr,temperature:0.1:0.5" → each setting. Without a range: a quarter to four times the value that it has in `flat`.

    Raises ValueError for a setting that is no positive number.
    """
    tuned = []
    for part in filter(None, text.replace(" ", "").split(",")):
        name, *ends = part.split(":")
        setting = STRENGTH if name == "strength" else SHORT.get(name, name)
        value = 1.0 if setting == STRENGTH else flat.get(setting)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"tune={name}: must be a setting whose value is a number above 0; {setting} is {value}")
        try:
            low, high = map(float, ends) if ends else (value / 4, value * 4)
        except ValueError as error:
            raise ValueError(f"tune={part}: a range is written {name}:low:high") from error
        maximum = ranges.largest(setting, value)
        if not 0 < low < high <= maximum:
            raise ValueError(f"tune={part}: the range must rise from above 0, to {ranges.shown(maximum)} at most")
        tuned.append(Tuned(setting, low, high, isinstance(value, int)))
    return tuned
