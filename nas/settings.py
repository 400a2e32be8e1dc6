"""What a search understands beside what pretraining does. No torch here."""
import math
from dataclasses import dataclass

from core import cli, ranges
from core.settings import PretrainSettings, option

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
    "latency_batch": ("minimize", "ms", "median of a forward pass of 64 images, here"),
}
OLDER = {"linear": "logistic"}  # objectives that had another name: it is understood, and studies begun with it resume
LEARNT = ("knn", "logistic", "loss", "rankme")  # known after training; the others before
COSTS = ("parameters", "macs", "memory", "latency", "latency_p95", "latency_batch")
STRATEGIES = ("train", "supernet", "proxy")
PROXIES = ("synflow", "naswot", "zico", "az", "parameters", "macs")
SPACES = ("resnet", "resnetd", "mobile", "vit", "tabular", "elastic")  # nas/space.py's
SPACES_TEXT = " | ".join([*SPACES, "names:<timm names>", "<file>.py:<function>"])
SHORT = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "temperature": "method.temperature",
         "hidden": "method.hidden", "dim": "method.dim"}
STRENGTH = "augment.strength"  # no word of its own: it scales colour jitter


@dataclass(frozen=True)
class SupernetSettings(PretrainSettings):
    space: str = option("elastic", f"{SPACES_TEXT}; its encoders must be parts of the largest one")
    subnets: int = option(2, "drawn encoders a step, beside the largest and the smallest")


@dataclass(frozen=True)
class SearchSettings(PretrainSettings):
    study: str = option("search", "its name: the same name goes on with it, or joins it")
    storage: str = option(
        "auto", "auto (a journal in runs/nas/<study>), a journal's path, or postgresql+psycopg://…",
        affects_result=False,
    )
    trials: int = option(30, "choices to train, in all; what limits refuse does not count", affects_result=False)
    space: str = option("resnet", SPACES_TEXT)
    tune: str = option("", "hyperparameters to search too: lr,weight_decay,temperature,hidden,dim,strength or word:low:high")
    objectives: str = option("knn,macs", "knn | logistic | loss | rankme | parameters | macs | memory | latency…, by commas")
    limit: str = option("", "the most that is allowed, checked before training: macs:15,latency:2")
    strategy: str = option("train", "train | supernet (one training for all, then the best go on) | proxy (no training)")
    supernet_epochs: float = option(30, "of the supernet's training; `epochs` is then what the best are trained on for")
    subnets: int = option(2, "drawn encoders a step of the supernet, beside the largest and the smallest")
    finalists: int = option(4, "of those judged in the supernet, how many are trained on")
    proxy: str = option("none", "synflow | naswot | zico | az | parameters | macs: the best of `candidates` is trained")
    candidates: int = option(4, "proposals a trial, where a proxy chooses among them")
    sampler: str = option("tpe", "tpe | gp | nsga2 | evolution | random")
    rungs: int = option(3, "stops of successive halving; 1: everything is trained to the end")
    factor: int = option(3, "a rung's epochs over those of the one before; 1/factor go on")
    parallel: int = option(0, "workers on this machine; 0: one a GPU, or one", affects_result=False)
    node: int = option(
        0, "of several machines on one study: --multirun node=0,1,2,3 hydra/launcher=submitit_slurm",
        affects_result=False,
    )
    interval: float = option(
        60.0, "seconds; twice that without a sign of life, and a worker's trial is given back",
        affects_result=False,
    )


def objectives(said: str) -> list[str]:
    """"knn,macs" → today's names of both."""
    return [OLDER.get(name, name) for name in said.split(",")]


def limits(said: str) -> dict[str, float]:
    """"macs:15,latency:2" → the most of each.  Raises ValueError."""
    found = {}
    for part in filter(None, said.replace(" ", "").split(",")):
        name, _, most = part.partition(":")
        try:
            found[name] = float(most)
        except ValueError as error:
            raise ValueError(f"limit={said}: written name:number, such as macs:15") from error
        if name not in COSTS:
            raise ValueError(f"limit={said}: there are {', '.join(COSTS)}")
        if not 0 < found[name] < math.inf:
            raise ValueError(f"limit={said}: {name} must be a number above 0")
    return found


def space_of(said: str) -> tuple[str, str]:
    """"names:resnet18,vit_tiny_patch16_224" → "names" and the names; "file.py:function" → both; "resnet" → it and nothing.

    Raises ValueError.
    """
    kind, _, rest = said.partition(":")
    if said in SPACES:
        return said, ""
    if kind == "names":
        names = [name.strip() for name in rest.split(",")]
        if not all(names):
            raise ValueError(f"space={said}: written names:resnet18,vit_tiny_patch16_224")
        return kind, ",".join(names)
    if kind.endswith(".py") and rest:
        if not cli.expand(kind).is_file():
            raise ValueError(f"space={said}: there is no file {cli.expand(kind)}")
        return kind, rest
    raise ValueError(f"space={said}: there are {', '.join(SPACES)}, names:<timm names, by commas> and <file>.py:<function>")


def tuned(said: str, flat: dict) -> list[tuple[str, float, float, bool]]:
    """"lr,temperature:0.1:0.5" → (word, low, high, whole numbers?) of each. Without a range: a quarter to four times the
    word's own value, which `flat` holds.  Raises ValueError for a word that is no positive number.
    """
    found = []
    for part in filter(None, said.replace(" ", "").split(",")):
        name, *limits = part.split(":")
        word = STRENGTH if name == "strength" else SHORT.get(name, name)
        value = 1.0 if word == STRENGTH else flat.get(word)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"tune={name}: must be a word whose value is a number above 0; {word} is {value}")
        try:
            low, high = map(float, limits) if limits else (value / 4, value * 4)
        except ValueError as error:
            raise ValueError(f"tune={part}: a range is written {name}:low:high") from error
        most = ranges.largest(word, value)
        if not 0 < low < high <= most:
            raise ValueError(f"tune={part}: the range must rise from above 0, to {ranges.shown(most)} at most")
        found.append((word, low, high, isinstance(value, int)))
    return found
