"""What a search and its report share: the settings, their checks, and the study that they describe. No torch here."""
from pathlib import Path

from core import cli, identity, training
from nas.settings import LEARNT, OBJECTIVES, PROXIES, STRATEGIES, SearchSettings, limits, objectives, space_of, tuned

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="nas.search",
    primary=ROOT / "nas" / "search.yaml",
    searched=(ROOT / "ssl", ROOT / "vision" / "config"),
    summary="Search for encoders: python -m nas.search --study fashion --data fashion_mnist --trials 50",
    settings=SearchSettings,
)
USELESS = {  # settings of ssl.pretrain that each trial has in its own way
    "encoder": "left out: space says which encoders", "stem": "left out: space says which stems",
    "pretrained": "left out: trials begin with random weights", "scratch": "left out: trials begin with random weights",
    "out": "left out: a study lies in runs/nas/<study>", "until": "left out: rungs says where trials pause",
}


def check(settings: SearchSettings) -> None:
    """Refuse what can be refused before anything is started."""
    training.check(settings)
    from nas.sampler import SAMPLERS

    wrong = {name: "more than 0" for name in ("trials", "rungs", "candidates", "interval") if not getattr(settings, name) > 0}
    wrong |= {} if settings.factor > 1 else {"factor": "2 or more"}
    wrong |= {} if settings.parallel >= 0 else {"parallel": "0 or more"}
    wrong |= {} if settings.sampler in SAMPLERS else {"sampler": " or ".join(SAMPLERS)}
    wrong |= {} if settings.strategy in STRATEGIES else {"strategy": " or ".join(STRATEGIES)}
    named = settings.study and "/" not in settings.study and settings.study[0] != "."
    wrong |= {} if named else {"study": "a name, such as fashion"}
    named = objectives(settings.objectives)
    if len(set(named)) < len(named) or not set(named) <= set(OBJECTIVES):
        wrong["objectives"] = f"some of {', '.join(OBJECTIVES)}, by commas, each once"
    elif settings.strategy != "proxy" and not set(named) & set(LEARNT):
        wrong["objectives"] = f"with one that training shows ({', '.join(LEARNT)}), or strategy=proxy"
    if settings.proxy not in ("none", *PROXIES):
        wrong["proxy"] = " or ".join(["none", *PROXIES])
    if settings.strategy == "proxy" and ("proxy" not in named or set(named) & set(LEARNT)):
        wrong["objectives"] = "proxy and costs alone, such as proxy,macs, where nothing is trained"
    if settings.strategy == "proxy" and settings.proxy in ("none", "az"):
        wrong["proxy"] = "one that scores an encoder by itself: synflow, naswot, zico, parameters or macs"
    if settings.strategy == "supernet":
        wrong |= {} if settings.supernet_epochs > 0 else {"supernet_epochs": "more than 0"}
        wrong |= {} if settings.subnets >= 0 else {"subnets": "0 or more"}
        wrong |= {} if settings.finalists > 0 else {"finalists": "more than 0"}
        wrong |= {} if not settings.tune else {"tune": "left out: one training serves all"}
        wrong |= {} if settings.proxy == "none" else {"proxy": "none: the supernet judges by itself"}
        wrong |= {} if not settings.compile else {"compile": "false: a supernet is another encoder at every step"}
        if "loss" in named:
            wrong["objectives"] = "without loss, which is the supernet's as a whole: knn, logistic or rankme"
    if settings.strategy != "proxy" and "proxy" in named:
        wrong["objectives"] = "without proxy, or with strategy=proxy"
    wrong |= {name: USELESS[name] for name in said(settings) if name in USELESS}
    if settings.resume == "never":
        wrong["resume"] = "auto: a trial goes on from rung to rung"
    if settings.steps:
        wrong["steps"] = "left out: a search counts in epochs"
    training.refuse(cli.flat(settings), wrong)
    limits(settings.limit)
    tuned(settings.tune, cli.flat(settings))
    space_of(settings.space)


def said(settings: SearchSettings) -> list[str]:
    """Names of the settings that were said. A recipe file may name its paper's encoder: that is no mistake of the user's."""
    of_paper = settings.origin.lines.keys() & {"encoder", "stem"}
    return [name for name in cli.explicit(settings) if name not in of_paper]


def plan(settings: SearchSettings):
    from nas.scheduler import Halving, Plan

    halving = {
        "train": Halving.of(settings.epochs, settings.rungs, settings.factor),
        "proxy": Halving.of(settings.epochs, 1, settings.factor),
        "supernet": Halving((0.0, settings.epochs), settings.factor, settings.finalists),
    }
    return Plan(
        trials=settings.trials, halving=halving[settings.strategy],
        objectives={name: OBJECTIVES[name][0] for name in objectives(settings.objectives)}, limits=limits(settings.limit),
        sampler=settings.sampler, seed=settings.seed, interval=settings.interval,
        candidates=settings.candidates if settings.proxy != "none" and settings.strategy == "train" else 1,
    )


def ledger(settings: SearchSettings, anew: bool = False):
    from nas.ledger import Ledger

    kept = identity.identity(settings) | {"objectives": ",".join(objectives(settings.objectives))}
    return Ledger(settings.study, settings.storage, plan(settings).objectives, kept, anew)
