"""The text of the setting `normalization`. Imports no torch."""
from core.errors import SettingError

NORMALIZATIONS = ("auto", "data", "weights", "imagenet")  # `normalization` may name, beside figures


def parse_moments(text: str, setting: str = "normalization") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """"mean;std", each one number or one a channel by comma → the two.  Raises SettingError for another text."""
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split(";"))
    except ValueError as error:
        right = f"{', '.join(NORMALIZATIONS)} or mean;std of pixels in 0..1, such as '0.5,0.4,0.3;0.2'"
        raise SettingError(setting, f"{text}: must be {right}") from error
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise SettingError(setting, f"{text}: is for pixels in 0..1; divide figures for 0..255 by 255")
    return mean, std
