# ruff: noqa: RUF009 (`option` makes fields)
"""What distillation understands beside what every tool does. No torch here."""
from dataclasses import dataclass

from core.settings import NATURAL, TrainingSettings, option


@dataclass(frozen=True)
class DistillSettings(TrainingSettings):
    teacher: str | None = option(
        None, "an encoder or classifier.safetensors, or a timm name; several by comma: an ensemble",
        path="weights",
    )
    teacher_weights: str | None = option(
        None, "another program's weights for the timm architecture that teacher names (.pth .pt .bin .ckpt .tar .safetensors)",
        original_default=None,
    )
    teacher_normalization: str = option(
        "auto", "of teacher_weights: auto (imagenet, or timm's for a name with a tag) | weights | imagenet | mean;std",
        original_default="auto",
    )
    teacher_sizes: list[int] = option(
        [], "sizes, in pixels, at which teachers see images, one after the other a step each, such as [160,224]; student and "
        "teachers change size together, in whole patches; empty: each teacher's own. For tokens and queue_tokens",
        original_default=[],
    )
    student: str | None = option(None, "what to train: any encoder; several by comma, one after the other", path="weights")
    cache: str = option(
        "runs/teachers", "folder of the teacher's kept outputs; none: ask it anew for every student",
        affects_result=False, path="folder",
    )
    cache_gb: float = option(20.0, "disk that they may take; epochs beyond it are computed anew", NATURAL, affects_result=False)
    steps_at: list[float] = option([], "shares of the run after which lr falls to a tenth, such as [0.6,0.8]; empty: cosine")
    compare: str | None = option(
        None, "further encoder files for the table, by comma: a student pretrained alone, from scratch",
        affects_result=False, path="weights", once="beside",
    )


def listed(names: str | None) -> list[str]:
    """What a word names by comma, without the spaces around it."""
    return [name for part in (names or "").split(",") if (name := part.strip())]
