"""What an encoder's input is normalized by: figures of its weights, of the data, or as the setting `normalization` says."""
from dataclasses import dataclass

from core.errors import SettingError
from core.moments import parse_moments
from vision.splits import STATISTICS


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each input channel, for pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def cycled(self, channels: int) -> "Moments":
        """For another number of channels: one is their average; more of them repeat these in turn."""
        if len(self.mean) == channels:
            return self
        if channels == 1:
            return Moments((sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),))
        return Moments(*(tuple(values[i % len(values)] for i in range(channels)) for values in (self.mean, self.std)))


IMAGENET = Moments(*STATISTICS["imagenet"])


@dataclass(frozen=True)
class Known:
    """The figures that a setting may choose among; None where there are none."""

    own: Moments | None  # what the encoder's weights were trained with; None for random ones
    stated: Moments | None  # timm's for the encoder's name
    data: Moments | None


def choose(text: str, known: Known, channels: int, setting: str = "normalization") -> Moments:
    """The figures for an encoder of so many input channels.

    text: auto | data | weights | imagenet | mean;std. With "auto", an input of other channels than the weights were trained
    with (bands) takes the data's own figures. setting: the one that says it. Raises SettingError where there are no such
    figures.
    """
    own, data = known.own, known.data
    if text == "auto" and own and (len(own.mean) == channels or not data or len(data.mean) != channels):
        return own.cycled(channels)
    named = {"auto": data, "data": data, "imagenet": IMAGENET, "weights": known.stated}
    if text in named:
        if (chosen := named[text]) is None:
            raise SettingError(setting, f"{text}: there are no such figures here; give imagenet, or mean;std")
        return chosen.cycled(channels)
    mean, std = parse_moments(text, setting)
    if not {len(mean), len(std)} <= {1, channels}:
        raise SettingError(setting, f"{text}: the encoder takes {channels} channels; give as many figures, or one for all")
    return Moments(*(values * channels if len(values) == 1 else values for values in (mean, std)))


def moments_note(text: str, chosen: Moments, setting: str = "normalization") -> str:
    """For the user, of weights whose file does not say what they were trained with."""
    mean, std = (",".join(f"{value:.4g}" for value in values) for values in (chosen.mean, chosen.std))
    return f"{setting}={text}: mean {mean}, std {std}; the file does not say what it was trained with, so give it if it differs"
