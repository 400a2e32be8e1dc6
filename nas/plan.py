"""What a search decides before its first trial: where trials pause, and which sizes of encoders it looks at.

Both depend on the images and on the encoder that the search begins with, so a worker makes the plan; it is kept in the study,
for the others and for the terminal. A study that was begun before there were plans has none, and stays as it was.
"""
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from core import cli
from nas import latency_profile, space
from nas.latency_profile import LatencyProfile
from nas.settings import SearchSettings, parse_around, parse_limits, parse_space, parse_tune
from vision import cost, encoders
from vision.splits import Dataset

AROUND = (0.25, 2.0)  # costs as shares of the starting encoder's, where around=auto applies
BOUNDED = ("resnet", "resnetd", "mobile", "vit")  # spaces of ours where it does: much larger than most uses of them
LEAST_RATIO = 1.5  # of a rung's epochs over those of the one before, where the first one moved
SIZES = ("macs", "parameters")


@dataclass(frozen=True)
class SearchPlan:
    """rungs: epochs, rising; limits, least: cost → the most and the least that is allowed; text: what the user is told."""

    rungs: tuple[float, ...]
    limits: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    limits_set_by: str = ""  # the setting, as a message shows it
    text: tuple[str, ...] = ()
    profile: dict | None = None  # of latency, as LatencyProfile.json

    @property
    def json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(stored: dict) -> "SearchPlan":
        tuples = {name: tuple(stored[name]) for name in ("rungs", "text")}
        return SearchPlan(**stored | tuples)


def make_plan(settings: SearchSettings, data: Dataset, rungs: Sequence[float]) -> SearchPlan:
    """The plan of a new study.  rungs: as rungs= and factor= space them.  Raises ValueError."""
    sizes, about_sizes = size_limits(settings, data)
    pauses, about_rungs = after_warmup(settings, len(data.pretrain), rungs)
    limits, least, set_by = sizes
    profile = given_profile(settings, data)
    about = [profile.text] if profile else []
    return SearchPlan(tuple(pauses), limits, least, set_by, (*about_rungs, *about_sizes, *about), profile and profile.json)


def given_profile(settings: SearchSettings, data: Dataset) -> LatencyProfile | None:
    """Raises ValueError where it is none, or does not fit the images."""
    if not settings.latency_profile:
        return None
    profile = latency_profile.read(cli.expand(settings.latency_profile))
    latency_profile.check_fits(profile, settings.image_size, data.channels)
    return profile


def kept_profile(settings: SearchSettings, plan: dict | None) -> LatencyProfile | None:
    """The profile that a study was begun with.  plan: its JSON, None of an older study.

    Raises ValueError where the settings name another.
    """
    kept = latency_profile.of_plan(plan)
    if settings.latency_profile and latency_profile.read(cli.expand(settings.latency_profile)).digest != (kept and kept.digest):
        other = "another one" if kept else "none"
        raise ValueError(f"latency_profile={settings.latency_profile}: study={settings.study} was begun with {other}; leave it "
                         "out, or give another study")
    return kept


# ------------------------------------------------------------------------------------------------------- where trials pause


def after_warmup(settings: SearchSettings, images: int, rungs: Sequence[float]) -> tuple[list[float], list[str]]:
    """(rungs of which none lies inside the learning-rate warm-up, sentences about them).  images: that trials train on

    The first has a step at the full rate behind it. The others keep their number where they can, evenly spaced in ratio.
    """
    if settings.strategy != "train":
        return list(rungs), []
    tuned = {t.setting: t.high for t in parse_tune(settings.tune, cli.flat(settings))}
    batch, warmup = int(tuned.get("batch_size", settings.batch_size)), tuned.get("optim.warmup", settings.optim.warmup)
    steps_an_epoch = images // batch
    if not steps_an_epoch:  # training refuses it, with the reason
        return list(rungs), []
    total = max(1, round(settings.epochs * steps_an_epoch))
    first = min(total, math.ceil(warmup * total) + 1)
    warm = f"{warmup * settings.epochs:.3g} epochs ({math.ceil(warmup * total)} of {total} steps)"
    end = f"; the warm-up of the learning rate takes {warm}"
    if len(rungs) == 1:
        return list(rungs), [f"Every trial is trained to the end, {settings.epochs:g} epochs."]
    if round(rungs[0] * steps_an_epoch) >= first:
        return list(rungs), [f"Trials pause at {_listed(rungs[:-1])} of {rungs[-1]:.3g} epochs{end}."]
    pauses = spaced(first / steps_an_epoch, rungs[-1], len(rungs))
    moved = f"rungs={settings.rungs} and factor={settings.factor} would have begun at {rungs[0]:.2g}, inside it"
    if len(pauses) == 1:
        return pauses, [f"Every trial is trained to the end, {settings.epochs:g} epochs{end}, and {moved}."]
    return pauses, [f"Trials pause at {_listed(pauses[:-1])} of {pauses[-1]:.3g} epochs{end}, and {moved}."]


def spaced(first: float, last: float, count: int) -> list[float]:
    """At most `count` numbers from first to last, each at least `LEAST_RATIO` times the one before."""
    while count > 1 and (last / first) ** (1 / (count - 1)) < LEAST_RATIO:
        count -= 1
    if count == 1:
        return [last]
    return [first * (last / first) ** (i / (count - 1)) for i in range(count - 1)] + [last]


def _listed(epochs: Sequence[float]) -> str:
    *most, last = [f"{e:.3g}" for e in epochs]
    return f"{', '.join(most)} and {last}" if most else last


# ------------------------------------------------------------------------------------------------------ sizes of encoders


def size_limits(settings: SearchSettings, data: Dataset) -> tuple[tuple[dict, dict, str], list[str]]:
    """((cost → the most, cost → the least, the setting that says so), sentences about them).  Raises ValueError."""
    limits = parse_limits(settings.limit)
    shares = shares_of(settings)
    start = None if shares is None else starting_encoder(settings, data)
    if shares is None or start is None:
        return (limits, {}, ""), []
    (low, high), (name, costs) = shares, start
    macs, parameters = (costs[size] for size in SIZES)
    most = {"macs": high * macs, "parameters": high * parameters} | limits
    least = {"macs": low * macs} if low * macs < most["macs"] else {}  # a good small encoder may have few parameters
    text = (
        f"Encoders have {least.get('macs', 0):.3g} to {most['macs']:.3g} M multiply-adds and at most {most['parameters']:.3g} "
        f"M parameters: {low:g} to {high:g} times the {macs:.3g} M, and {high:g} times the {parameters:.3g} M, of the starting "
        f"encoder, {name}. around=least:most, around=none or limit=macs:… sets others."
    )
    return (most, least, f"around={settings.around}"), [text]


def shares_of(settings: SearchSettings) -> tuple[float, float] | None:
    """The least and the most, as shares of the starting encoder's costs; None where `limit` alone holds."""
    if settings.around != "auto":
        return parse_around(settings.around)
    ours, kind = settings.space in BOUNDED, parse_space(settings.space)[0]
    bounded = ours or kind.endswith(".py")
    return AROUND if bounded and not settings.limit and settings.strategy != "supernet" else None


def starting_encoder(settings: SearchSettings, data: Dataset) -> tuple[str, dict[str, float]] | None:
    """(name, costs) of what the space begins with, or of the default encoder in a space of ours that begins anywhere.

    None where the space is the user's own and begins anywhere.  Raises ValueError where `around` is set all the same.
    """
    function, channels, size = space.space_by_name(settings.space), data.channels, settings.image_size
    params = space.initial_params(settings.space, function, channels, size, [], {})
    if params:
        made = function(space.InitialTrial(params), channels, size)
        encoder = encoders.create(made, channels, size) if isinstance(made, str) else encoders.build(made)
        name = "what the space begins with"
    elif parse_space(settings.space)[0] in space.SPACES:
        name = settings.encoder
        encoder = encoders.create(name, channels, size)
    elif settings.around == "auto":
        return None
    else:
        raise ValueError(f"around={settings.around}: space={settings.space} names no encoder to begin with; leave it out, and "
                         "set limit=macs:…")
    return name, {"macs": cost.macs(encoder), "parameters": cost.parameters(encoder)}
