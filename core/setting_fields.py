"""What settings classes are made of: fields with help, range and marks, choices of groups, and where values come from.

Imports no torch, so that --help answers at once.
"""
import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be, and how a refusal puts it."""

    text: str
    low: float = -math.inf  # the least of them
    above: float = -math.inf  # less than any of them
    high: float = math.inf  # the largest of them
    below: float = math.inf  # more than any of them

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        return self.text


POSITIVE, NATURAL = Range("more than 0", above=0), Range("0 or more", low=0)
SHARE, PROPER_SHARE = Range("from 0 to less than 1", low=0, below=1), Range("between 0 and 1", above=0, below=1)
Allowed = Range | tuple[str, ...]


def option(
    default: Any,
    help: str,
    allowed: Allowed | None = None,
    *,
    affects_result: bool = True,
    original_default: Any = dataclasses.MISSING,
    path: str = "",
    once: str = "",
    short: str = "",
    parse: Callable[[Any, str], Any] | None = None,
) -> Any:
    """A field of a settings class.

    allowed: a range of numbers, or names to choose from; None, where the default is None, is always allowed.
    affects_result: False for what says where a run happens and how closely it is watched (core/identity.py).
    original_default: of a field that came later, the value that older runs had; at it the field is no part of an identity.
    path: "folder", if it names a folder to write to, or "weights", if it names encoder files, several by comma.
    once: the name that it had before, which the command line and recipe files still understand.
    short: what the command line and recipe files call it too, such as a word that Python keeps for itself.
    parse: (value as given, the setting's name) → the field's value; raises SettingError. For types that Hydra does not know.
    """
    factory = {"default_factory": lambda: default} if isinstance(default, (list, dict)) else {"default": default}
    metadata = {"help": help, "allowed": allowed, "affects_result": affects_result, "path": path, "once": once}
    metadata |= {"short": short} if short else {}
    metadata |= {"parse": parse} if parse else {}
    return field(**factory, metadata=metadata | {"original_default": original_default})


class Group(Mapping[str, Any]):
    """The choice of a group, as method=simclr: its `name`, and the settings in it by attribute or by key. Read-only.

    A mapping inside it is a Group too, without a name.
    """

    def __init__(self, name: str, values: Mapping[str, Any]):
        inner = {key: Group("", value) if isinstance(value, Mapping) else value for key, value in values.items()}
        self.__dict__.update(name=name, _values=types.MappingProxyType(inner))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        if key == "_values" or key not in self._values:
            raise AttributeError(key)
        return self._values[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"{key}: settings are read-only")

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {dict(self._values)!r})"

    def __reduce__(self):
        return Group, (self.name, dict(self._values))


@dataclass(frozen=True)
class Origin:
    """Where settings come from."""

    overrides: tuple[str, ...] = ()  # of the command line and of a recipe file, in Hydra's grammar
    file: str = ""  # the recipe file
    lines: Mapping[str, int] = field(default_factory=dict)  # setting of the file, and not of the command line → its line

    @property
    def names(self) -> set[str]:
        """The settings that are set explicitly."""
        return {override.split("=", 1)[0].lstrip("+~") for override in self.overrides}


@dataclass(frozen=True)
class Settings:
    """What the settings of all tools derive from. Complete, typed and read-only; `dataclasses.replace` changes them."""

    origin: ClassVar[Origin] = Origin()
