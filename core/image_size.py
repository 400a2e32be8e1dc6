"""The size of images: a number of pixels a side, or height and width where the two differ. Imports no torch."""
import re
from typing import Any

from core.errors import SettingError

Size = int | tuple[int, int]  # pixels a side; or height and width, where they differ
RIGHT = "pixels a side, such as 96, or height and width, such as 96x128 or [96,128]"


def parse(value: Any, setting: str = "image_size") -> Size:
    """A setting's value → a size: 96, "96", "96x128" or [96,128].  Of two equal sides, the one number: [96,96] is 96.

    Raises SettingError for anything else.
    """
    found = value
    if isinstance(value, str):
        parts = value.strip().replace("×", "x")  # as messages have it
        found = [int(part) for part in parts.split("x")] if re.fullmatch(r"\d+(x\d+)?", parts, re.ASCII) else None
        found = found[0] if found and len(found) == 1 else found
    numbers = list(found) if isinstance(found, (list, tuple)) else [found]
    if not all(type(number) is int for number in numbers) or len(numbers) > 2 or numbers == []:
        raise SettingError(setting, f"{_shown(value)}: must be {RIGHT}")
    if min(numbers) < 1:
        raise SettingError(setting, f"{_shown(value)}: must be more than 0")
    return numbers[0] if len({*numbers}) == 1 else (numbers[0], numbers[1])


def sides(size: Size) -> tuple[int, int]:
    """Height and width, in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def of(height: int, width: int) -> Size:
    """One number where the sides are equal."""
    return height if height == width else (height, width)


def size_text(size: Size) -> str:
    """For people: "96", or "96×128" (height first)."""
    return str(size) if isinstance(size, int) else "×".join(map(str, size))


def _shown(value: Any) -> str:
    return str(value).replace(" ", "")
