"""What a run on a folder of pictures does where its settings say nothing: chosen by what lies there, and said in two sentences.

The values for small sets were chosen on the validation images of picture sets that packages ship (docs/own_images.md). What the
command line or a recipe gives is never changed; with another method than METHOD its own constants and views stay.
"""
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core import cli, recipe, world
from core.run import log_line
from core.settings import PretrainSettings
from core.training import gpus
from ssl import adapt

if TYPE_CHECKING:
    from vision.reachable import Reachable
    from vision.survey import Survey

SIDES = (32, 48, 64, 96, 128, 160, 192, 224)  # pixels that encoders are trained at
LARGEST_SIDE = {"cpu": 64, "gpu": 224}
SIDE_OF_WEIGHTS = {"cpu": 128, "gpu": 224}  # of smaller pictures too: trained weights know objects at their own scale
SMALL_SET = 20_000  # images: up to here the values for small sets are taken
IMAGES_SEEN = {False: 150_000, True: 15_000}  # on a CPU over all epochs, from scratch and from trained weights
EPOCHS = (5, 400)  # at least and at most
METHOD = "simclr"
FROM_SCRATCH = {  # of METHOD on small sets
    "optim.name": "adamw", "optim.lr": 0.003, "optim.scaling": "sqrt", "optim.weight_decay": 0.05,
    "augment.crop": [0.3, 1.0], "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.saturation": 0.1,
    "augment.hue": 0.05, "augment.grey": 0.1, "augment.view_size": 0.75,
}  # fmt: skip
START = ("encoder", "weights", "pretrained", "stem", "normalization", "from_run")  # settings that say where training begins
LENGTH = ("epochs", "steps", "budget", "pause_at")


@dataclass(frozen=True)
class Place:
    """Where training will run, and what it may begin with."""

    device: str  # cpu | gpu
    devices: int  # processes
    weights: "Reachable | None"


@dataclass(frozen=True)
class Plan:
    changes: Mapping[str, Any]  # dotted setting → value
    sentences: tuple[str, str]


def planned(tool: cli.Tool, settings: PretrainSettings) -> PretrainSettings:
    """The settings, those that were not given chosen, where `plan` is on and the data is a folder. Says what it chose.

    Raises ValueError where the folder cannot be read.
    """
    if not settings.plan or settings.data is None or settings.data.name != "folder":
        return settings
    from vision import reachable
    from vision.survey import survey_of

    found = survey_of(settings.data)
    if not found.images:
        return settings  # reading them says why
    given = set(cli.explicit(settings))
    device = "gpu" if settings.device != "cpu" and gpus() else "cpu"
    weights = None if given & {*START} else reachable.best(device == "gpu")
    plan = make(found, Place(device, settings.devices, weights), settings, given)
    if (world.environment() or (0,))[0] == 0:
        for sentence in plan.sentences:
            log_line(f"plan: {sentence}")
    return cli.derive(tool, settings, changes=plan.changes)


def make(found: "Survey", place: Place, settings: PretrainSettings, given: Collection[str]) -> Plan:
    """given: dotted settings that the plan leaves alone."""
    begins = adapt.trained(settings)
    trained, small = begins or place.weights is not None, found.images <= SMALL_SET
    changes: dict[str, Any] = {}
    if not settings.from_run and not settings.encoder.endswith(".safetensors"):  # which have a size of their own
        changes["image_size"] = _side(found, place.device, trained and settings.stem != "small")
    if place.weights:
        changes |= place.weights.settings
    changes |= {"adapt.on": True} if trained else {"encoder": _encoder(found, place)}
    if small:
        changes["batch_size"] = _batch(found.images, place.devices)
    if small and not trained and settings.method.name == METHOD:
        changes |= FROM_SCRATCH
    if place.device == "cpu" and not {*LENGTH} & {*given}:
        changes["epochs"] = _epochs(found.images, trained)
    changes = {name: value for name, value in changes.items() if _free(name, given)}
    return Plan(changes, _sentences(found, place, changes, begins, given))


def _free(name: str, given: Collection[str]) -> bool:
    """May the plan set it? Not what was given, nor a part of a group whose choice was given."""
    group = name.partition(".")[0]
    return name not in given and not (group != name and group in given)


def _side(found: "Survey", device: str, trained: bool) -> int:
    """trained: on large images, which those with a stem for small ones were not"""
    if trained:
        return SIDE_OF_WEIGHTS[device]
    largest = LARGEST_SIDE[device]
    side = found.side or largest
    return max((s for s in SIDES if s <= min(side, largest)), default=side)


def _encoder(found: "Survey", place: Place) -> str:
    if place.device == "cpu":
        return "tiny" if found.images <= 5_000 else "small"
    return "resnet18" if found.images <= 50_000 else "resnet50"


def _batch(images: int, devices: int) -> int:
    """About a twenty-fourth of the images: a power of two from 32 to 256, and a multiple of the processes."""
    batch = 2 ** max(5, min(8, round(math.log2(max(images, 1) / 24))))
    return max(1, round(batch / devices)) * devices


def _epochs(images: int, trained: bool) -> int:
    return max(EPOCHS[0], min(EPOCHS[1], round(IMAGES_SEEN[trained] / images)))


def _sentences(
    found: "Survey", place: Place, changes: Mapping[str, Any], begins: bool, given: Collection[str]
) -> tuple[str, str]:
    of = f" of about {found.side} px" if found.side else ""
    labels = f" in {found.classes} classes" if found.classes else ", no labels"
    if place.weights:
        start = f"begins with the published weights of {place.weights.encoder}, which are on this machine"
    elif begins:
        start = "begins with the weights that you gave"
    elif asked := [name for name in START if name in given]:
        start = f"begins from random weights, since you set {' and '.join(asked)}"
    else:
        start = ("begins from random weights, for no published ones are on this machine (--encoder resnet18 --pretrained "
                 "downloads some)")
    chosen = ", ".join(f"{name}={recipe.text(value)}" for name, value in changes.items() if name != "weights")
    why = "the set is small" if found.images <= SMALL_SET else "the set is large"
    return (
        f"{found.images:,} pictures{of}{labels}: training {start}",
        f"as {why} and a {place.device.upper()} trains, {chosen}; --NAME VALUE changes one of these, --plan false leaves all "
        "at the method's own",
    )
