"""What makes a run this run: the settings that change its result, the images it sees, and the weight files it begins with.

A file is known by its content and not by its path, so a file under another name, or images in another place, are the same
run; another encoder under the old path, or more images in the old folder, are another one.
"""
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from core.home import expand
from core.places import CHECKPOINTS
from core.settings import PretrainSettings, Settings, flat, marked

# Of groups, whose settings have no fields: what does not change the result, and what runs had before a setting came.
UNAFFECTING = {"data.root", "data.download", "data.cache", "data.retry_minutes"}
ORIGINAL_DEFAULTS = {
    "method.kd": 0.0, "method.kd_temperature": 4.0, "method.positives": "batch", "method.unbiased": False, "data.group": None,
    "augment.vflip": 0.0, "augment.turns": 0.0, "augment.rotate": 0.0, "augment.policy": "none", "augment.policy_n": 2,
    "augment.policy_magnitude": 9, "augment.gain": 0.0, "augment.offset": 0.0, "augment.gamma": [1.0, 1.0],
    "augment.noise": 0.0, "augment.drop_channel": 0.0, "augment.view_size": 1.0, "augment.clean.size": 0.0,
    "augment.high_resolution.size": 1.0, "augment.high_resolution.since": 1.0, "method.gram_weight_high": 1.5,
}  # fmt: skip
ORIGINAL_DEFAULTS |= dict.fromkeys(
    ("data.window", "data.multilabel", "data.bands", "data.range", "data.nodata", "data.frame", "data.axes")
)
SUFFIXES = (".safetensors", ".py", *CHECKPOINTS)  # of files that a setting names, by comma
IMAGES = "images."  # what the names of a data set's fingerprints begin with (vision/splits.py)
_UNKNOWN = object()
WEIGHTS = "content "  # what the value of a setting begins with that names a file


def identity(config: Settings | Mapping[str, Any], kind: type[Settings] = PretrainSettings) -> dict[str, Any]:
    """Dotted name → value of all settings that change the result; a file's value is the digest of its content.

    kind: the class of settings that a mapping, such as the content of a config.yaml, is of.
    """
    return {name: by_content(value) for name, value in settings_as_written(config, kind).items()}


def settings_as_written(config: Settings | Mapping[str, Any], kind: type[Settings] = PretrainSettings) -> dict[str, Any]:
    """The identity that versions before content was compared gave a configuration: files by their paths."""
    kind = type(config) if isinstance(config, Settings) else kind
    left_out = UNAFFECTING | unaffecting(kind)
    original = ORIGINAL_DEFAULTS | {
        name: value for name, value in marked(kind, "original_default").items() if value is not dataclasses.MISSING
    }
    return {
        name: value
        for name, value in flat(config).items()
        if name not in left_out
        and not name.startswith("chosen.")  # of config.yaml
        and (name not in original or value != original[name])
    }


def without_defaults(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A group's settings without those that came later and have the value that older runs had."""
    return {name: value for name, value in settings.items() if value != ORIGINAL_DEFAULTS.get(f"{group}.{name}", _UNKNOWN)}


@cache
def unaffecting(kind: type[Settings]) -> set[str]:
    """The settings of a tool that change no result, under their former names too."""
    names = {name for name, affects in marked(kind, "affects_result").items() if not affects}
    return names | {once for name, once in marked(kind, "once").items() if name in names and once}


def by_content(value: Any) -> Any:
    """A setting's value; of text, with the digest of its content in place of every file that it names.

    "runs/x/encoder.safetensors" → "content 0f3c…"; "space.py:build" → "content 77ab…:build"; "resnet50" stays. A file that is
    not there stays too: its reader refuses it.
    """
    if not isinstance(value, str):
        return value
    whole = _by_content(value)  # a path may have commas in it
    return whole if whole != value else ",".join(_by_content(part) for part in value.split(","))


def _by_content(part: str) -> str:
    name, colon, function = part.strip(), "", ""
    if not name.endswith(SUFFIXES):  # space.py:function
        name, colon, function = name.rpartition(":")
    path = expand(name)
    if not name.endswith(SUFFIXES) or not path.is_file():
        return part
    return f"{WEIGHTS}{digest_of(path)[:16]}{colon}{function}"


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.  Computed again where the file has changed since the last call."""
    status = Path(path).stat()
    return _digest(Path(path).resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _digest(path: Path, *changes: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Readable differences between two identities: "optim.lr: 0.4 → 0.3".

    What an older version did not keep is not compared: fingerprints of the images are compared where both have them, and a
    path is compared by the content that lies there now.
    """
    if not (has_images(old) and has_images(new)):
        old, new = ({k: v for k, v in one.items() if not k.startswith(IMAGES)} for one in (old, new))
    old, new = ({name: by_content(value) for name, value in one.items()} for one in (old, new))
    return [
        f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name, "absent") != new.get(name, "absent")
    ]


def has_images(identity: dict[str, Any]) -> bool:
    """Does it say which images a run sees? Runs of older versions do not."""
    return any(name.startswith(IMAGES) for name in identity)


def fingerprint(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits for an identity: the end of a run folder's name."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
