"""`--from runs/x`: another run begins with all that a run of pretraining left: its encoder, heads, teacher and memories.

What the command line needs to know of it; imports no torch. ssl/method_file.py writes and reads the tensors.
"""
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import cli, world
from core.errors import SettingError
from core.settings import PretrainSettings

FILE = "method.safetensors"
ENCODER = "encoder.safetensors"
KEY, FORMAT = "nolabel.method", 1  # of the file's metadata
TARGET = "_target_"  # among a method's settings: its class
BRINGS = ("encoder", "weights", "pretrained", "scratch", "stem")  # settings that say what a run folder says already


@dataclass(frozen=True)
class MethodHeader:
    """What the header of a method.safetensors states."""

    name: str  # of the method's yaml
    settings: Mapping[str, Any]  # of the method, its class among them
    encoder: Mapping[str, Any]  # `vision.encoders.Spec.json`
    step: int  # of the run
    fixed: tuple[str, ...] = ()  # parameters of the encoder that were not trained, such as positions

    @property
    def json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)


def read_header(path: str | Path) -> MethodHeader:
    """Raises SettingError where it is no method.safetensors of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            stated = json.loads((file.metadata() or {})[KEY])
        if stated.pop("format") != FORMAT:
            raise ValueError("it is of another version")
        return MethodHeader(**stated | {"fixed": tuple(stated["fixed"])})
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:160]
        raise SettingError("from", f"{path} is no method.safetensors of nolabel: {type(error).__name__}: {why}") from error


def folder_of(settings: PretrainSettings) -> Path:
    """The folder of the run to begin with.  Raises SettingError where it holds none that has ended or was paused."""
    assert settings.from_run
    path = cli.expand(settings.from_run)
    folder = path.parent if path.name == FILE else path
    if not folder.is_dir():
        raise SettingError("from", f"{settings.from_run}: there is no such folder; give that of a run of ssl.pretrain")
    if not (folder / ENCODER).is_file():
        raise SettingError("from", f"{settings.from_run}: holds no {ENCODER}, so no run of ssl.pretrain that has ended")
    if not (folder / FILE).is_file():
        raise SettingError("from", f"{settings.from_run}: has no {FILE}, which older versions did not write; the command that "
                           f"made it, given again, writes it; its encoder alone is encoder={folder / ENCODER}")
    return folder


def check(settings: PretrainSettings) -> None:
    """Refuse what cannot be meant.  Raises ValueError."""
    if settings.from_run is None:
        return
    folder, given = folder_of(settings), cli.explicit(settings)
    for name in BRINGS:
        if name in given and given[name] not in ("false", "null"):
            raise SettingError("from", f"{settings.from_run}: brings its encoder; leave out {name}={given[name]}")
    header, now = read_header(folder / FILE), settings.method
    if header.settings[TARGET] != now[TARGET]:
        raise SettingError("from", f"{settings.from_run}: was trained with method={header.name}, and this run has method="
                           f"{now.name}: their heads are others; say method={header.name}, or begin with its encoder alone: "
                           f"encoder={folder / ENCODER}")


def with_files(settings: PretrainSettings) -> PretrainSettings:
    """The settings with the two files in place of the folder: what the run's identity takes digests of."""
    if settings.from_run is None:
        return settings
    folder = folder_of(settings)
    changed = dataclasses.replace(settings, encoder=str(folder / ENCODER), from_run=str(folder / FILE))
    object.__setattr__(changed, "origin", settings.origin)  # what was set explicitly stays known
    return changed


def adopted(tool: cli.Tool, settings: PretrainSettings) -> PretrainSettings:
    """The settings with the method of the run to begin with, and with what was set of it there, where these do not say it."""
    if settings.from_run is None:
        return settings
    header, given = read_header(folder_of(settings) / FILE), cli.explicit(settings)
    if "method" not in given:
        if header.name not in tool.choices("method"):
            raise SettingError("from", f"{settings.from_run}: was trained with method={header.name}, which is not here")
        settings = cli.derive(tool, settings, changes={"method": header.name})
    if settings.method[TARGET] != header.settings[TARGET]:
        return settings  # `check` refuses it
    now = cli.plain(settings.method)
    changes = {
        f"method.{name}": value for name, value in header.settings.items()
        if name in now and now[name] != value and f"method.{name}" not in given
    }
    if changes and (world.environment() or (0,))[0] == 0:
        from core.run import log_line

        log_line(f"note: as in {settings.from_run}: {', '.join(f'{n}={cli.recipe.text(v)}' for n, v in changes.items())}")
    return cli.derive(tool, settings, changes=changes) if changes else settings
