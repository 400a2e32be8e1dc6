"""Color augmentation of images that have no color: what is refused, and what is left out of a method's own views."""
from collections.abc import Collection
from typing import Any

COLOR = ("jitter", "brightness", "contrast", "saturation", "hue", "grey", "solarize")  # of `augment`, and of its local crops
SWITCHES = ("jitter", "grey", "solarize")  # 0 leaves all of them out


def has_color(channels: int) -> bool:
    """Whether color augmentation applies: of gray images brightness and contrast, of three bands all of it."""
    return channels in (1, 3)


def refuse_color(augment: dict[str, Any], channels: int, explicit: Collection[str]) -> list[str]:
    """Raises ValueError where the user sets color augmentation for images of other bands; else a note on what is left out.

    augment: its settings; explicit: dotted settings that are set explicitly.
    """
    if has_color(channels):
        return []
    values = {f"augment.{name}": augment.get(name) for name in COLOR}
    local = augment.get("local") or {}
    values |= {f"augment.local.{name}": local.get(name) for name in COLOR}
    for name in sorted(set(explicit) & set(values)):
        if _any(values[name]):
            raise ValueError(f"{name}={values[name]}: color augmentation needs gray or RGB images, and these have {channels} "
                             "bands; leave it out, or choose three with data.bands")
    used = [name for name in SWITCHES if _any(augment.get(name))]
    what = {"jitter": "color jitter", "grey": "grayscale", "solarize": "solarize"}
    if not used:
        return []
    return [f"images of {channels} bands have no color, so augment's {' and '.join(what[name] for name in used)} are left out"]


def without_color(augment: dict[str, Any], channels: int) -> dict[str, Any]:
    """The settings of `augment` without color augmentation, where images have neither one nor three bands."""
    if has_color(channels):
        return augment
    off = dict.fromkeys(SWITCHES, 0.0)
    local = augment.get("local")
    return augment | off | ({"local": local | {n: 0.0 for n in off if n in local}} if isinstance(local, dict) else {})


def _any(value: Any) -> bool:
    return any(map(_any, value)) if isinstance(value, list | tuple) else bool(value)
