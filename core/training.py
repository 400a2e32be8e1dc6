"""From settings to processes: what the tools do before they load anything, and how settings become a run's numbers."""
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli, identity, origin, trackers, world
from core.machine import cores
from core.moments import NORMALIZATIONS, parse_moments
from core.places import check_checkpoint
from core.settings import CommonSettings, PretrainSettings, Settings, TrainingSettings, check_allowed, refuse

if TYPE_CHECKING:
    from core.loop import TrainConfig
    from core.method import Method
    from core.processes import World


LATE = ("augment.clean", "augment.high_resolution")  # of later stages of a run of ssl.pretrain


def start(tool: cli.Tool, check: Callable[[Any], None], run: Callable[[Any], int], settings: CommonSettings) -> int:
    """Become as many processes as were asked for, or be one of them.  Returns the exit code."""
    check(settings)
    world.check_devices(settings.devices)

    from core import guard, launch

    if settings.devices > 1 and world.environment() is None:
        with tempfile.TemporaryDirectory() as place:
            return launch.launch(tool.module, cli.save(settings, Path(place, "settings.json")), settings.devices)
    if guard.LAUNCHED in os.environ:
        guard.end_with_parent()
    return guard.run_guarded(partial(run, settings), partial(origin.located, tool, settings))


def check(settings: Settings) -> None:
    """Refuse what can be refused of the settings that tools share before anything is loaded or launched."""
    check_allowed(settings)
    flat, wrong = cli.flat(settings), {}
    betas = flat.get("optim.betas", [0, 0])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        wrong["optim.betas"] = "two numbers from 0 to less than 1"
    if flat.get("chunk") and flat["accumulate"] > 1:
        wrong["chunk"] = "left out with accumulate: chunk does what accumulate does, with the whole batch's gradient"
    for other in ("chunk", "checkpointing", "compile"):
        if flat.get("graph") and flat.get(other):
            wrong["graph"] = f"left out with {other}"
    if flat.get("graph") and (flat["accumulate"] > 1 or flat["devices"] > 1):
        wrong["graph"] = "left out with accumulate and with devices: it records the whole step of one process"
    if flat.get("checkpointing") and flat.get("compile"):
        wrong["checkpointing"] = "left out with compile, which chooses itself what to compute again"
    if flat.get("clip_by", "all") != "all" and flat["clip"] is None:
        wrong["clip_by"] = "left out without clip, such as clip=3"
    if not isinstance(settings, PretrainSettings):
        asked = cli.explicit(settings).keys() & {"optim.layer_decay", "optim.stem_lr"}  # a method's yaml may set them
        late = tuple(given for given in cli.explicit(settings) if given.startswith(LATE))
        asked |= {name for name in flat if late and name.startswith(late)}
        wrong |= dict.fromkeys(sorted(asked), "left out: it is of ssl.pretrain")
    wrong |= {name: too_many() for name in ("workers", "devices", "parallel") if flat.get(name, 0) > most_processes()}
    if flat.get("batch_size", 0) % max(flat["devices"], 1):
        wrong["batch_size"] = f"a multiple of devices={flat['devices']}"
    refuse(flat, wrong)
    if isinstance(settings, CommonSettings):
        check_weights(settings)
    if "trackers" in flat:
        trackers.check(flat["trackers"])


def check_weights(settings: CommonSettings) -> None:
    """Refuse `weights` beside what already brings weights, and a `normalization` that is none."""
    if settings.normalization not in NORMALIZATIONS:
        parse_moments(settings.normalization)
    if settings.weights is None:
        return
    check_checkpoint("weights", settings.weights)
    named, encoder = f"weights={settings.weights}", settings.encoder or ""
    if encoder.endswith(".safetensors") or ":" in encoder:
        raise ValueError(f"{named}: encoder={encoder} brings its own weights; leave one of the two out, or name the timm "
                         "architecture as encoder=")
    if settings.pretrained:
        raise ValueError(f"{named}: pretrained=true brings timm's weights; leave one of the two out")


def most_processes() -> int:
    """So many processes of one kind may be asked for on this machine; more would only take its memory."""
    return max(4 * cores() + 16, len(gpus()))


def too_many() -> str:
    return f"at most {most_processes()}, for {cores()} usable cores: each is a process with memory of its own"


def folder(settings: Settings, name: str, images: dict[str, str] | None = None) -> Path:
    """The run's folder: `out`, or one named by the run's identity, so that another configuration or other images get another.

    images: the data set's fingerprints. A run that an older version began, under a name without them, keeps its folder where
    its data.root is the same.
    """
    if settings.out != "auto":
        return cli.expand(settings.out)
    found = Path("runs") / f"{name}-{identity.fingerprint(identity.identity(settings) | (images or {}))}"
    older = Path("runs") / f"{name}-{identity.fingerprint(identity.settings_as_written(settings))}"
    return older if not found.exists() and _is_older_run(older, settings, images or {}) else found


def _is_older_run(folder: Path, settings: Settings, images: dict[str, str]) -> bool:
    """Does the folder hold this run, begun by a version that kept no fingerprint of images, on the same data.root?"""
    from omegaconf import OmegaConf

    if (kept := folder / "identity.json").is_file():  # this version has been here since
        return not identity.difference(json.loads(kept.read_text("utf-8")), identity.identity(settings) | images)
    if not (folder / "config.yaml").is_file():
        return False
    before, now = OmegaConf.select(OmegaConf.load(folder / "config.yaml"), "data.root"), cli.flat(settings).get("data.root")
    return (before and cli.expand(before).resolve()) == (now and cli.expand(now).resolve())


def workers(settings: CommonSettings, local_size: int, cuda: bool) -> int:
    """Decoding processes: what the cores leave beside this machine's training processes, at least one each."""
    if settings.workers >= 0:
        return settings.workers
    return max(1, cores() // local_size - cuda)


def gpus() -> list[str]:
    """GPUs that this process may use, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [str(i) for i, _ in enumerate(sorted(Path("/dev").glob("nvidia[0-9]*")))]


def learning_rate(settings: TrainingSettings) -> float:
    """The peak, for the whole batch of all processes: optim.lr is for `optim.reference_batch` images."""
    ratio = settings.batch_size / settings.optim.reference_batch
    return settings.optim.lr * {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[settings.optim.scaling]


def build(settings: TrainingSettings, method: "Method", world: "World", steps_an_epoch: int, precision, **changes):
    """Make a method ready to train on this process's device, or on all of them (`shard`), in place.
    → (optimizer, loop.TrainConfig)

    precision: autocast's dtype or None; changes: fields of the TrainConfig in place of those that the settings give.
    """
    import torch

    from core import dropout, graph, optim
    from core.batchnorm import sync_batchnorm

    if world.size > 1 and method.traits.sync_batchnorm:
        sync_batchnorm(method)
    dropout.per_image(method)
    if world.size > 1 and getattr(settings, "shard", False):
        from core.shard import shard_

        shard_(method, world.device, in_chunks=bool(settings.chunk))
    else:
        method.to(world.device, memory_format=torch.channels_last)
    if settings.graph and (why := graph.refusal(method, world.device)):
        raise ValueError(f"graph=true: {why}")
    optimizer = optim.build(method, settings.optim, learning_rate(settings))
    return optimizer, train_config(settings, steps_an_epoch, world.size, precision, **changes)


def train_config(
    settings: TrainingSettings, steps_an_epoch: int, processes: int, precision, steps: int | None = None, **changes
) -> "TrainConfig":
    """The numbers of a run.  precision: autocast's dtype or None; steps, changes: in place of what the settings give."""
    from core.loop import TrainConfig
    from core.schedule import cosine, warmup_cosine

    least = getattr(settings, "least_steps", 0)
    steps = steps or settings.steps or max(1, least, round(settings.epochs * steps_an_epoch))
    share = settings.batch_size // processes
    if share % settings.accumulate or share // settings.accumulate < 2:
        raise ValueError(
            f"batch_size={settings.batch_size}, accumulate={settings.accumulate}: the {share} images of each of {processes} "
            "processes must make that many equal pieces, of 2 images at least"
        )
    if settings.chunk and (share % settings.chunk or settings.chunk < 2):
        raise ValueError(f"chunk={settings.chunk}: must divide the {share} images of each of {processes} processes, 2 at least")
    o, peak = settings.optim, learning_rate(settings)
    end = peak if o.schedule == "constant" else o.end_lr
    fields = dict(
        steps=steps,
        steps_an_epoch=steps_an_epoch,
        batch_size=settings.batch_size,
        evals=frozenset({round(steps * (i + 1) / settings.evals) for i in range(settings.evals)} - {0}),
        rate=partial(warmup_cosine, peak=peak, warmup=o.warmup, start=o.warmup_lr, end=end),
        precision=precision,
        accumulate=settings.accumulate,
        chunk=settings.chunk,
        graph=settings.graph,
        decay=None if o.end_weight_decay is None else partial(cosine, start=o.weight_decay, end=o.end_weight_decay),
        clip=settings.clip,
        clip_by=settings.clip_by,
        pause_at=round(settings.pause_at * steps_an_epoch) if getattr(settings, "pause_at", None) else None,
        seed=settings.seed,
        log_every=settings.log_every,
        save_seconds=settings.save_minutes * 60,
    )
    return TrainConfig(**fields | changes)


def build_method(settings: TrainingSettings, encoder, **more):
    """The class that the method's yaml names, with exactly the arguments that it lists.

    more: arguments that come from the data, not from settings. What the constructor raises passes.
    """
    import importlib
    import inspect

    arguments = cli.plain(settings.method) | more
    module, _, name = arguments.pop("_target_").rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"method._target_={module}.{name}: {error}") from error
    try:
        inspect.signature(kind).bind(encoder=encoder, **arguments)
    except TypeError as error:
        raise ValueError(f"method={settings.method.name}: {kind.__name__} has {error}") from error
    needed = kind.traits.views
    if settings.augment.views != needed:  # local crops are beside those
        raise ValueError(f"augment.views={settings.augment.views}: method={settings.method.name} takes {needed} of each image")
    local = (settings.augment.get("local") or {}).get("views", 0)
    if local and not kind.traits.local_crops:
        raise ValueError(f"augment.local.views={local}: method={settings.method.name} takes no local crops; set it to 0")
    return kind(encoder=encoder, **arguments)
