"""A file of settings: `--recipe PATH.yaml`, a plain mapping of what could stand on the command line.

    method: simclr
    optim: {lr: 0.4}          # as --optim.lr 0.4
    augment: asymmetric
    augment.crop: [0.2, 1.0]  # a group's choice and its settings, side by side

The command line comes later and wins. The settings that result are the run's, as if each had been given there: the file's
name is no part of its identity.
"""
import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RecipeFile:
    path: str
    lines: Mapping[str, int]  # setting of the file, and not of the command line → its line

    def where(self, error: ValueError) -> str:
        """ "PATH, line 3: " where the error is about one of the file's settings, so that the user looks there."""
        about = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, self.lines))})(=|')")
        found = about.search(str(error)) if self.lines else None
        return f"{self.path}, line {self.lines[found[1]]}: " if found else ""


def path_of(name: str, value: str) -> str:
    """The file that a setting names: of recipe=PATH.yaml the path, of any other ""."""
    return value if name == "recipe" and value.endswith((".yaml", ".yml")) else ""


def read(path: str) -> tuple[list[str], dict[str, int]]:
    """The file's settings as arguments of the command line, in its order, and the line of each.

    Raises ValueError, in one line, where it is no such file.
    """
    import yaml
    from omegaconf import OmegaConf

    try:
        file = Path(path).expanduser()
    except RuntimeError:  # ~ of a user that the system does not know
        file = Path(path)
    if not file.is_file():
        raise ValueError(f"recipe={path}: there is no such file")
    try:
        content = _decoded(file.read_bytes())
        if not isinstance(node := yaml.compose(content), yaml.MappingNode):
            raise ValueError(f"recipe={path}: must be a mapping of settings, such as 'method: simclr'")
        content = OmegaConf.to_container(OmegaConf.create(content))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"recipe={path}: no YAML{where}: {getattr(error, 'problem', None) or error}") from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"recipe={path} cannot be read: {why}") from error
    return [f"--{name}={value}" for name, value in _flat(content)], _lines(node)


def _lines(node, prefix: str = "") -> dict[str, int]:
    """Dotted setting → the line of the file that it stands in, counted from 1."""
    found = {}
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        found[name] = key.start_mark.line + 1
        found |= _lines(value, f"{name}.") if value.id == "mapping" else {}
    return found


def _decoded(data: bytes) -> str:
    """UTF-8, or what a byte order mark says: editors and shells of Windows write UTF-16 with one."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def _flat(content: dict, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in content.items():
        path = f"{prefix}{name}"
        found += _flat(value, f"{path}.") if isinstance(value, dict) else [(path, text(value))]
    return found


def text(value: Any) -> str:
    """A value as one would type it: null, true, 0.4, [0.2,1.0], text as it is."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{text(v)}' for k, v in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
