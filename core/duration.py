"""Times as people write and read them."""
import re

FORM = r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?"


def seconds(text: str) -> float:
    """Of the setting `budget`.  "1h30m" → 5400.  Raises ValueError."""
    found = re.fullmatch(FORM, text.replace(" ", ""))
    total = sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0.0
    if not 0 < total < 1e9:
        raise ValueError(f"budget={text}: must be a time such as 20m, 90s or 1h30m")
    return total


def spoken(time: float) -> str:
    """Seconds → "45 min", "9 h" or "3 days"."""
    units = (60, "min", 100 * 60), (3600, "h", 48 * 3600), (86400, "days", float("inf"))
    unit, name = next((unit, name) for unit, name, most in units if time < most)
    return f"{time / unit:.0f} {name}"
