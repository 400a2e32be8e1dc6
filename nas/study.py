"""What a search and its report share: the settings, their checks, and the study that they describe. No torch here."""
from pathlib import Path

from core import command, config, identity
from nas.words import LEARNT, OBJECTIVES, PROXIES, STRATEGIES, NasWords, limits, objectives, space_of, tuned

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="nas.search",
    primary=ROOT / "nas" / "search.yaml",
    searched=(ROOT / "ssl", ROOT / "vision" / "config"),
    summary="Search for encoders: python -m nas.search --study fashion --data fashion_mnist --trials 50",
    words=NasWords,
)
USELESS = {  # words of ssl.pretrain that each trial has in its own way
    "encoder": "left out: space says which encoders", "stem": "left out: space says which stems",
    "pretrained": "left out: trials begin with random weights", "scratch": "left out: trials begin with random weights",
    "out": "left out: a study lies in runs/nas/<study>", "until": "left out: rungs says where trials pause",
}


def check(words) -> None:
    """Refuse what can be refused before anything is started."""
    command.check(words)
    from nas.sampler import SAMPLERS

    wrong = {name: "more than 0" for name in ("trials", "rungs", "candidates", "interval") if not words[name] > 0}
    wrong |= {} if words.factor > 1 else {"factor": "2 or more"}
    wrong |= {} if words.parallel >= 0 else {"parallel": "0 or more"}
    wrong |= {} if words.sampler in SAMPLERS else {"sampler": " or ".join(SAMPLERS)}
    wrong |= {} if words.strategy in STRATEGIES else {"strategy": " or ".join(STRATEGIES)}
    wrong |= {} if words.study and "/" not in words.study and words.study[0] != "." else {"study": "a name, such as fashion"}
    named = objectives(words.objectives)
    if len(set(named)) < len(named) or not set(named) <= set(OBJECTIVES):
        wrong["objectives"] = f"some of {', '.join(OBJECTIVES)}, by commas, each once"
    elif words.strategy != "proxy" and not set(named) & set(LEARNT):
        wrong["objectives"] = f"with one that training shows ({', '.join(LEARNT)}), or strategy=proxy"
    if words.proxy not in ("none", *PROXIES):
        wrong["proxy"] = " or ".join(["none", *PROXIES])
    if words.strategy == "proxy" and ("proxy" not in named or set(named) & set(LEARNT)):
        wrong["objectives"] = "proxy and costs alone, such as proxy,macs, where nothing is trained"
    if words.strategy == "proxy" and words.proxy in ("none", "az"):
        wrong["proxy"] = "one that scores an encoder by itself: synflow, naswot, zico, parameters or macs"
    if words.strategy == "supernet":
        wrong |= {} if words.supernet_epochs > 0 else {"supernet_epochs": "more than 0"}
        wrong |= {} if words.subnets >= 0 else {"subnets": "0 or more"}
        wrong |= {} if words.finalists > 0 else {"finalists": "more than 0"}
        wrong |= {} if not words.tune else {"tune": "left out: one training serves all"}
        wrong |= {} if words.proxy == "none" else {"proxy": "none: the supernet judges by itself"}
        wrong |= {} if not words.compile else {"compile": "false: a supernet is another encoder at every step"}
        if "loss" in named:
            wrong["objectives"] = "without loss, which is the supernet's as a whole: knn, logistic or rankme"
    if words.strategy != "proxy" and "proxy" in named:
        wrong["objectives"] = "without proxy, or with strategy=proxy"
    wrong |= {name: USELESS[name] for name in said(words) if name in USELESS}
    if words.resume == "never":
        wrong["resume"] = "auto: a trial goes on from rung to rung"
    if words.steps:
        wrong["steps"] = "left out: a search counts in epochs"
    command.refuse(config.flat(words), wrong)
    limits(words.limit)
    tuned(words.tune, config.flat(words))
    space_of(words.space)


def said(words) -> list[str]:
    """Names of the words that were said. A recipe file may name its paper's encoder: that is no mistake of the user's."""
    names = [word.partition("=")[0].lstrip("+~") for word in words.chosen.words]
    recipe = "recipe='null'" in words.chosen.words  # core/config.py's sign of a file
    return [name for name in names if not (recipe and name in ("encoder", "stem"))]


def plan(words):
    from nas.scheduler import Halving, Plan

    halving = {
        "train": Halving.of(words.epochs, words.rungs, words.factor),
        "proxy": Halving.of(words.epochs, 1, words.factor),
        "supernet": Halving((0.0, words.epochs), words.factor, words.finalists),
    }
    return Plan(
        trials=words.trials, halving=halving[words.strategy],
        objectives={name: OBJECTIVES[name][0] for name in objectives(words.objectives)}, limits=limits(words.limit),
        sampler=words.sampler, seed=words.seed, interval=words.interval,
        candidates=words.candidates if words.proxy != "none" and words.strategy == "train" else 1,
    )


def ledger(words, anew: bool = False):
    from nas.ledger import Ledger

    settings = identity.identity(words) | {"objectives": ",".join(objectives(words.objectives))}
    return Ledger(words.study, words.storage, plan(words).objectives, settings, anew)
