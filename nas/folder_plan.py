"""What a search on a folder of pictures takes from the plan of pretraining (ssl/plan.py): image size, batch, rate and views.

Its encoders are the space's, and its trials begin with random weights; published ones that are on this machine are named, as
what the best encoder has to beat.
"""
from typing import Any

from core import cli, identity, recipe
from core.run import log_line
from core.training import gpus
from nas.settings import SearchSettings
from nas.study import TOOL, kept_settings
from ssl import plan

TAKEN = ("image_size", "batch_size", *plan.FROM_SCRATCH)


def planned(settings: SearchSettings) -> SearchSettings:
    """The settings, those of TAKEN that were not given chosen, where `plan` is on and the data is a folder. Prints them.

    A study that exists keeps what it was begun with, on other machines and from before there were such plans too.
    Raises ValueError where the folder cannot be read.
    """
    if not settings.plan or settings.data is None or settings.data.name != "folder":
        return settings
    from vision import reachable
    from vision.survey import survey_of

    found = survey_of(settings.data)
    if not found.images:
        return settings  # reading them says why
    given, device = set(cli.explicit(settings)), "gpu" if settings.device != "cpu" and gpus() else "cpu"
    changes = dict(plan.make(found, plan.Place(device, settings.devices, None), settings, given).changes)
    changes = {name: value for name, value in changes.items() if name in TAKEN}
    if (kept := kept_settings(settings)) is not None:
        changes = begun_with(kept, settings, changes)
    rival = reachable.best(device == "gpu")
    of = f" of about {found.side} px" if found.side else ""
    known = f"; published ones of {rival.encoder} are on this machine: ssl.pretrain --adapt begins with them" if rival else ""
    log_line(f"plan: {found.images:,} pictures{of}: trials begin with random weights{known}")
    if changes:
        chosen = ", ".join(f"{name}={recipe.text(value)}" for name, value in changes.items())
        why = "as the study was begun" if kept is not None else f"as they are so many and a {device.upper()} trains"
        log_line(f"plan: {why}, {chosen}; --NAME VALUE changes one of these, --plan false leaves all at the method's own")
    return cli.derive(TOOL, settings, changes=changes) if changes else settings


def begun_with(kept: dict[str, Any], settings: SearchSettings, changes: dict[str, Any]) -> dict[str, Any]:
    """Of the planned settings those that a study was begun with otherwise than these settings have them, at its values."""
    now = identity.identity(settings)
    return {name: kept[name] for name in changes if name in kept and kept[name] != now.get(name)}
