"""Refuses settings of a search before anything is started.  Imports no torch."""
from core import cli, training
from core.duration import seconds
from deploy import peak_memory
from nas import latency_profile
from nas.settings import (
    MEASURED,
    OBJECTIVES,
    SearchSettings,
    parse_around,
    parse_limits,
    parse_objectives,
    parse_space,
    parse_tune,
)

USELESS = {  # settings of ssl.pretrain that each trial has in its own way
    "encoder": "left out: space says which encoders", "stem": "left out: space says which stems",
    "pretrained": "left out: trials begin with random weights", "weights": "left out: trials begin with random weights",
    "normalization": "left out: trials take the data's", "scratch": "left out: trials begin with random weights",
    "out": "left out: a study lies in runs/nas/<study>", "pause_at": "left out: rungs says where trials pause",
    "lora": "left out: trials begin with random weights", "adapt": "left out: trials begin with random weights",
}


def check(settings: SearchSettings) -> None:
    """Raises ValueError for the first setting that is wrong."""
    training.check(settings)
    flat = cli.flat(settings)
    training.refuse(flat, _name(settings) | _objectives(settings) | _supernet(settings) | _training(settings))
    _device(settings)
    parse_around(settings.around)
    parse_tune(settings.tune, flat)
    parse_space(settings.space)


def _name(settings: SearchSettings) -> dict[str, str]:
    """Setting → what it must be; so for the others."""
    usable = settings.study and "/" not in settings.study and settings.study[0] != "."
    return {} if usable else {"study": "a name, such as fashion"}


def _objectives(settings: SearchSettings) -> dict[str, str]:
    """Which objectives a strategy can measure, and with which proxy."""
    names, proxy = parse_objectives(settings.objectives), settings.strategy == "proxy"
    measured = set(names) & set(MEASURED)
    wrong = {}
    if len(set(names)) < len(names) or not set(names) <= set(OBJECTIVES):
        wrong["objectives"] = f"some of {', '.join(OBJECTIVES)}, by commas, each once"
    elif not proxy and "proxy" in names:
        wrong["objectives"] = "without proxy, or with strategy=proxy"
    elif not proxy and not measured:
        wrong["objectives"] = f"with one that training shows ({', '.join(MEASURED)}), or strategy=proxy"
    elif proxy and ("proxy" not in names or measured):
        wrong["objectives"] = "proxy and costs alone, such as proxy,macs, where nothing is trained"
    elif settings.strategy == "supernet" and "loss" in names:
        wrong["objectives"] = "without loss, which is the supernet's as a whole: knn, logistic or rankme"
    if proxy and settings.proxy in ("none", "az"):
        wrong["proxy"] = "one that scores an encoder by itself: synflow, naswot, zico, parameters or macs"
    return wrong


def _device(settings: SearchSettings) -> None:
    """What only some machines can measure.  Raises ValueError."""
    names = {*parse_objectives(settings.objectives), *parse_limits(settings.limit)}
    if "peak_memory" in names and not peak_memory.available():
        raise ValueError("peak_memory is measured on Linux alone; use memory, its lower bound")
    if settings.strategy == "proxy" and "int8_accuracy" in names:
        raise ValueError(f"limit={settings.limit}: int8_accuracy needs trained encoders; leave it out with strategy=proxy")
    if settings.latency_profile:
        models = latency_profile.read(cli.expand(settings.latency_profile)).models
        if not names & models.keys():
            raise ValueError(f"latency_profile={settings.latency_profile}: it predicts {' and '.join(models)}, which neither "
                             "objectives nor limit names; name one of them, or leave it out")


def _supernet(settings: SearchSettings) -> dict[str, str]:
    if settings.strategy == "train":
        return {}
    wrong = {"verify": "0, or with strategy=train"} if settings.verify else {}
    if settings.strategy == "proxy":
        return wrong
    if settings.tune:
        wrong["tune"] = "left out: one training serves all"
    if settings.proxy != "none":
        wrong["proxy"] = "none: the supernet evaluates by itself"
    if settings.compile:
        wrong["compile"] = "false: a supernet is another encoder at every step"
    if settings.checkpointing:
        wrong["checkpointing"] = "false: a supernet is another encoder at every step"
    return wrong


def _training(settings: SearchSettings) -> dict[str, str]:
    """Settings of ssl.pretrain that a search has no use for. A recipe file may name its paper's encoder: it is ignored."""
    ignored = {"encoder", "stem"} & settings.origin.lines.keys()
    parts = {name: name.partition(".")[0] for name in cli.explicit(settings)}  # adapt.keep is one of adapt
    wrong = {name: USELESS[part] for name, part in parts.items() if part in USELESS and name not in ignored}
    if settings.budget is not None:
        seconds(settings.budget)
        if settings.strategy != "train":
            wrong["budget"] = "left out: with strategy=train alone, whose trials are trained one by one"
    if settings.resume == "never":
        wrong["resume"] = "auto: a trial resumes from rung to rung"
    if settings.steps:
        wrong["steps"] = "left out: a search counts in epochs"
    return wrong
