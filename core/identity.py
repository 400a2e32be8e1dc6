"""What makes a run this run: the settings that change its result, the images it sees, and the weight files it begins with.

A file is known by its content and not by its path, so a file under another name, or images in another place, are the same
run; another encoder under the old path, or more images in the old folder, are another one.
"""
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.cli import expand, flat

# What does not change the result: where a run happens and how closely it is watched.
MACHINE = ("device", "devices", "workers", "out", "resume", "log_every", "save_minutes", "checks", "stop_on_collapse")
MACHINE += ("until", "report", "storage", "trials", "parallel", "node", "interval")
MACHINE += ("trackers", "data.root", "data.download", "cache", "cache_gb", "picture", "beside")
# Settings that came later. At these values they are left out, so that older runs keep their identity.
LATER = {"scratch": False, "method.kd": 0.0, "method.kd_temperature": 4.0}
LATER |= {"method.positives": "batch", "method.unbiased": False}
FILES = ("encoder", "teacher", "student", "against", "space")  # settings whose value may name files, by comma
SUFFIXES = (".safetensors", ".py")  # of those files
IMAGES = "images."  # what the names of a data set's fingerprints begin with (vision/splits.py)
WEIGHTS = "content "  # what the value of a setting begins with that names a file


def identity(config) -> dict[str, Any]:
    """Dotted name → value of all settings that change the result; a file's value is the digest of its content."""
    out = {k: v for k, v in flat(config).items() if k not in MACHINE and not k.startswith("chosen.")}  # chosen: of older files
    out = {k: v for k, v in out.items() if k not in LATER or v != LATER[k]}
    return out | {name: by_content(out[name]) for name in FILES if isinstance(out.get(name), str)}


def settings_as_written(config) -> dict[str, Any]:
    """The identity that versions before content was compared gave a configuration: files by their paths."""
    out = identity(config)
    return out | {name: value for name, value in flat(config).items() if name in FILES and name in out}


def by_content(value: str) -> str:
    """A setting's text with the digest of its content in place of every file that it names.

    "runs/x/encoder.safetensors" → "content 0f3c…"; "space.py:build" → "content 77ab…:build"; "resnet50" stays. A file that is
    not there stays too: its reader refuses it.
    """
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
    old, new = ({k: by_content(v) if k in FILES and isinstance(v, str) else v for k, v in one.items()} for one in (old, new))
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
