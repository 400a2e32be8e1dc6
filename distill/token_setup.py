"""Before the first step of a method on tokens: the bases of its teachers, and a cache for what they make of the images."""
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from core import checkpoint, cli
from core.identity import fingerprint
from core.loop import TrainConfig
from core.method import Batch
from core.processes import broadcast_object, is_main
from core.run import counting
from distill.cache import Cache
from distill.method import Distillation
from distill.settings import DistillSettings
from distill.token_teacher import TokenTeacher
from distill.with_tokens import WithTokens


@dataclass(frozen=True)
class Shown:
    """What teachers are shown in a run."""

    batches: Any  # a loader of vision/loaders.py
    images: int
    what: dict | None  # all that the teacher's outputs depend on beside image and epoch; None: nothing is kept


def check(settings: DistillSettings, method: Distillation) -> None:
    """Refuse settings that do not go with the method."""
    if settings.teacher_sizes and not isinstance(method, WithTokens):
        raise ValueError(f"teacher_sizes={list(settings.teacher_sizes)}: is for tokens and queue_tokens; leave it out with "
                         f"method={settings.method.name}")
    if settings.compile and isinstance(method, WithTokens):
        raise ValueError(f"compile=true: has no effect with method={settings.method.name}, which calls the encoder's parts; "
                         "leave it out")


def begin(settings: DistillSettings, teacher: TokenTeacher, shown: Shown, config: TrainConfig, resumed: bool) -> list[str]:
    """Fit the bases, or take those that an earlier student left beside the cache, and open it.  Collective.  → notes

    resumed: the bases came with the checkpoint.
    """
    steps = min(teacher.fitted_steps(config.batch_size), max(config.steps_an_epoch, teacher.turns))
    fitted = {**(shown.what or {}), "components": [basis.kept for basis in teacher.bases], "fitted": steps * config.batch_size,
              "sizes": list(settings.teacher_sizes)}
    path = Path(cli.expand(settings.cache), f"basis-{fingerprint(fitted)}.safetensors") if shown.what else None
    if not resumed and not _read(path, teacher):
        teacher.fit(_counted(shown.batches.batches(0, steps), steps))
        teacher.bases.load_state_dict(broadcast_object({name: v.cpu() for name, v in teacher.bases.state_dict().items()}))
        _write(path, teacher)
    notes = teacher.notes()
    if shown.what:
        several = {"batch_size": config.batch_size} if teacher.turns > 1 else {}  # which says which size a step has
        what = fitted | several | {"outputs": "tokens", "bases": [basis.fingerprint() for basis in teacher.bases]}
        cache = Cache(cli.expand(settings.cache), what, shown.images, teacher.width, settings.cache_gb * 1e9)
        epochs, kept, teacher.teacher.cache = math.ceil(config.steps / config.steps_an_epoch), cache.epochs, cache
        if kept < epochs:
            notes.append(f"cache_gb={settings.cache_gb:g}: the teacher's outputs of {kept} of {epochs} epochs are kept, of "
                         f"{cache.epoch_bytes / 1e9:.3g} GB each; the others are computed anew for every student")
    return notes


def _counted(batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    with counting("principal components of the teacher's patches") as progress:
        for done, batch in enumerate(batches, 1):
            yield batch
            progress(done, total)


def _read(path: Path | None, teacher: TokenTeacher) -> bool:
    """Whether the bases are now those of a file."""
    state = None
    if is_main() and path is not None and path.is_file():
        try:
            state = safetensors.torch.load_file(path)
        except (SafetensorError, OSError):  # torn or unreadable: fitted again
            state = None
    if (state := broadcast_object(state)) is None:
        return False
    teacher.bases.load_state_dict(state)
    return True


def _write(path: Path | None, teacher: TokenTeacher) -> None:
    if path is None or not is_main():
        return
    state = {name: value.contiguous().cpu() for name, value in teacher.bases.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, safetensors.torch.save(state))
    except OSError as error:
        raise ValueError(f"cache={path.parent} cannot be written: {error.strerror}; give another folder, or none") from error
