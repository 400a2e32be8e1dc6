"""What a search and its report share: the settings, and the study that they describe. Imports no torch."""
import math
from dataclasses import replace
from pathlib import Path

from core import cli, identity
from core.duration import seconds
from nas.settings import OBJECTIVES, SearchSettings, parse_limits, parse_objectives

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="nas.search",
    primary=ROOT / "nas" / "search.yaml",
    searched=(ROOT / "ssl", ROOT / "vision" / "config"),
    summary="Search for encoders: python -m nas.search --study fashion --data fashion_mnist --trials 50",
    settings=SearchSettings,
)


def search_config(settings: SearchSettings):
    """→ a scheduler.SearchConfig"""
    from nas.halving import Halving
    from nas.search_config import SearchConfig

    halving = {
        "train": Halving.of(settings.epochs, settings.rungs, settings.factor),
        "proxy": Halving.of(settings.epochs, 1, settings.factor),
        "supernet": Halving((0.0, settings.epochs), settings.factor, settings.finalists),
    }
    return SearchConfig(
        trials=settings.trials, halving=halving[settings.strategy],
        objectives={name: OBJECTIVES[name][0] for name in parse_objectives(settings.objectives)},
        limits=parse_limits(settings.limit), sampler=settings.sampler, seed=settings.seed, interval=settings.interval,
        candidates=settings.candidates if settings.proxy != "none" and settings.strategy == "train" else 1,
        verify=settings.verify, promote="measured" if settings.promote == "auto" else settings.promote,
        budget=seconds(settings.budget) if settings.budget else math.inf,
    )


def planned_config(settings: SearchSettings, store, data):
    """The config of a worker: a new study's rungs and limits are its plan's (nas/plan.py).  → a scheduler.SearchConfig

    Every worker makes the same plan, so it does not matter whose is kept.  Raises ValueError.
    """
    from nas.halving import Halving
    from nas.plan import SearchPlan, make_plan

    config = search_config(settings)
    if settings.promote == "auto":  # a supernet's ranking has one seed for all: it was not tried there
        config = replace(config, promote=store.promote if settings.strategy == "train" else "measured")
    if not store.has_plan:
        return config
    if store.plan is None:
        store.set_plan(make_plan(settings, data, config.halving.rungs).json)
    plan = SearchPlan.from_json(store.plan)
    halving = Halving(plan.rungs, config.halving.factor, config.halving.finalists)
    return replace(config, halving=halving, limits=plan.limits, least=plan.least, limits_set_by=plan.limits_set_by)


def kept_settings(settings: SearchSettings) -> dict | None:
    """What an existing study was begun with, as `identity.identity`; None where there is none."""
    from nas.storage import MissingStudy
    from nas.store import TrialStore

    try:
        return TrialStore(settings.study, settings.storage).settings
    except MissingStudy:
        return None


def open_store(settings: SearchSettings, reset_untrained: bool = False):
    """→ the study's store.TrialStore"""
    from nas.store import TrialStore

    kept = identity.identity(settings) | {"objectives": ",".join(parse_objectives(settings.objectives))}
    return TrialStore(settings.study, settings.storage, search_config(settings).objectives, kept, reset_untrained)
