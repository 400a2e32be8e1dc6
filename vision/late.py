"""What augmentation does from a share of a run on: larger crops, and copies of the global ones without distortion."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATEST = {"clean": {"size": 0.0}, "high_resolution": {"size": 1.0, "since": 1.0}}  # at these values there is none


@dataclass(frozen=True)
class Late:
    """`augment.clean` and `augment.high_resolution`."""

    clean: float  # side of clean views as a multiple of the global crops'; 0: none
    size: float  # side of all crops as a multiple of what it was before
    since: float  # share of the run from which it is that

    @property
    def larger(self) -> bool:
        return self.size != 1 and self.since < 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Late":
        """Of an augmentation's settings.  Raises ValueError where they are none."""
        found = {}
        for group, default in LATEST.items():
            given = settings.get(group) or {}
            if not isinstance(given, Mapping) or set(given) - set(default):
                shown = ", ".join(f"{name}: {value}" for name, value in default.items())
                raise ValueError(f"augment.{group}={given}: settings such as {{{shown}}}")
            found[group] = {**default, **given}
        clean, late = found["clean"]["size"], found["high_resolution"]
        if type(clean) not in (int, float) or not (clean == 0 or 0.25 <= clean <= 8):
            raise ValueError(f"augment.clean.size={clean}: a multiple of the crops' side, from 0.25 to 8; or 0 for none")
        if type(late["size"]) not in (int, float) or not 1 <= late["size"] <= 8:
            raise ValueError(f"augment.high_resolution.size={late['size']}: a multiple of the crops' side, from 1 to 8")
        if type(late["since"]) not in (int, float) or not 0 <= late["since"] <= 1:
            raise ValueError(f"augment.high_resolution.since={late['since']}: a share of the run, from 0 to 1")
        if late["size"] != 1 and late["since"] == 1:
            raise ValueError(f"augment.high_resolution.size={late['size']}: needs augment.high_resolution.since, such as 0.9")
        if late["size"] == 1 and late["since"] != 1:
            raise ValueError(f"augment.high_resolution.since={late['since']}: needs augment.high_resolution.size, such as 1.5")
        return cls(float(clean), float(late["size"]), float(late["since"]))
