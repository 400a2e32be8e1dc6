
"""The settings of `python -m linear_eval.segment`. No torch here."""
from dataclasses import dataclass
from pathlib import Path

from core import cli, training
from core.settings import NATURAL, TrainingSettings, option

GEOMETRIC = ("vflip", "turns", "rotate")  # of augment: masks follow crops and flips alone


@dataclass(frozen=True)
class SegmentSettings(TrainingSettings):
    scratch: bool = option(False, "ignore the encoder's weights: train from scratch")
    image_fit: str = option("squash", "squash: whole images, so that every pixel of a mask is predicted", ("squash",))
    least_steps: int = option(
        400, "optimizer steps at least, where so many epochs of few images would be fewer; steps is the number itself", NATURAL
    )
    shown: int = option(8, "test images whose prediction the report shows", NATURAL, affects_result=False)


ROOT = Path(__file__).resolve().parent.parent.parent
TOOL = cli.Tool(
    module="linear_eval.segment",
    primary=ROOT / "linear_eval" / "segment" / "segment.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Train a segmenter: python -m linear_eval.segment --encoder runs/x/encoder.safetensors --data scenes --method unet",
    settings=SegmentSettings,
)


def check(settings: SegmentSettings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    training.check(settings)
    flat, wrong = cli.flat(settings), {}
    for name in GEOMETRIC:
        if flat.get(f"augment.{name}"):
            wrong[f"augment.{name}"] = "0: masks follow crops and horizontal flips, and nothing else"
    if flat.get("augment.policy", "none") != "none":
        wrong["augment.policy"] = "none: it turns and shears images, and masks do not follow"
    if settings.devices > 1:
        wrong["devices"] = "1: linear_eval.segment runs in one process"
    if flat["method.trains"] == "decoder" and flat["chunk"]:
        wrong["chunk"] = "left out with method.trains=decoder; accumulate is the same here"
    training.refuse(flat, wrong)
