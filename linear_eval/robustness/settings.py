# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of linear_eval.robustness. No torch here."""
from dataclasses import dataclass
from pathlib import Path

from core import cli
from core.settings import NATURAL, CommonSettings, Group, option

AUTO, ALEXNET, PIXELS = "auto", "alexnet", "pixels"  # of `reference`


@dataclass(frozen=True)
class RobustnessSettings(CommonSettings):
    encoder: str | None = option(
        None, "an encoder.safetensors, or any timm name (pretrained=true: timm's weights)", path="weights"
    )
    protocol: Group | None = option(None, "all constants, frozen; a result lists what was changed")
    augment: Group | None = option(None, "not used: choices of data set it")
    attention: str = option("none", "none | cbam, for a timm name", ("none", "cbam"))
    corruptions: list[str] = option(["all"], "all that the images' channels allow, or names (python -m vision.corruptions)")
    images: int = option(1000, "test images, evenly spaced; 0: all", NATURAL)
    reference: str = option(
        AUTO, "what errors are divided by: alexnet (published, ImageNet at 224 px) | pixels (logistic regression on raw "
        "pixels) | another run's results.json; auto: alexnet where it fits, else pixels",
    )
    shifted: str | None = option(None, "another data set of the same classes: a name, or a folder of images by class")
    cache: str = option("runs/features", "folder of cached features; none: no cache", affects_result=False, path="folder")


ROOT = Path(__file__).resolve().parent
TOOL = cli.Tool(
    module="linear_eval.robustness",
    primary=ROOT / "robustness.yaml",
    searched=(ROOT.parent.parent / "vision" / "config",),
    summary="Test features on corrupted images: python -m linear_eval.robustness --encoder runs/x/encoder.safetensors",
    settings=RobustnessSettings,
)
