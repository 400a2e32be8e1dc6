
"""What a search understands beside what pretraining does. No torch here."""
from dataclasses import dataclass

from core.words import PretrainWords, word

OBJECTIVES = {  # name → direction, unit, meaning
    "knn": ("maximize", "%", "kNN accuracy on validation images"),
    "linear": ("maximize", "%", "logistic regression on validation images"),
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
LEARNT = ("knn", "linear", "loss", "rankme")  # known after training; the others before
COSTS = ("parameters", "macs", "memory", "latency", "latency_p95", "latency_batch")
STRATEGIES = ("train", "supernet", "proxy")
PROXIES = ("synflow", "naswot", "zico", "az", "parameters", "macs")


SPACES = "resnet | resnetd | mobile | vit | elastic | names:<timm names> | <file>.py:<function>"


@dataclass
class SupernetWords(PretrainWords):
    space: str = word("elastic", f"{SPACES}; its encoders must be parts of the largest one")
    subnets: int = word(2, "drawn encoders a step, beside the largest and the smallest")


@dataclass
class NasWords(PretrainWords):
    study: str = word("search", "its name: the same name goes on with it, or joins it")
    storage: str = word("auto", "auto (a journal in runs/nas/<study>), a journal's path, or postgresql+psycopg://…")
    trials: int = word(30, "choices to train, in all; what limits refuse does not count")
    space: str = word("resnet", SPACES)
    tune: str = word("", "hyperparameters to search too: lr,weight_decay,temperature,hidden,dim,strength or word:low:high")
    objectives: str = word("knn,macs", "knn | linear | loss | rankme | parameters | macs | memory | latency…, by commas")
    limit: str = word("", "the most that is allowed, checked before training: macs:15,latency:2")
    strategy: str = word("train", "train | supernet (one training for all, then the best go on) | proxy (no training)")
    supernet_epochs: float = word(30, "of the supernet's training; `epochs` is then what the best are trained on for")
    subnets: int = word(2, "drawn encoders a step of the supernet, beside the largest and the smallest")
    finalists: int = word(4, "of those judged in the supernet, how many are trained on")
    proxy: str = word("none", "synflow | naswot | zico | az | parameters | macs: of which the best of `candidates` are trained")
    candidates: int = word(4, "proposals a trial, where a proxy chooses among them")
    sampler: str = word("tpe", "tpe | gp | nsga2 | evolution | random")
    rungs: int = word(3, "stops of successive halving; 1: everything is trained to the end")
    factor: int = word(3, "a rung's epochs over those of the one before; 1/factor go on")
    parallel: int = word(0, "workers on this machine; 0: one a GPU, or one")
    node: int = word(0, "of several machines on one study: --multirun node=0,1,2,3 hydra/launcher=submitit_slurm")
    interval: float = word(60.0, "seconds; twice that without a sign of life, and a worker's trial is given back")


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
    return found
