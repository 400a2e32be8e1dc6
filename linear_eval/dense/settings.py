# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of `python -m linear_eval.dense`. No torch here."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import cli, training
from core.settings import POSITIVE, CommonSettings, Group, option

MASKS = ("dense_knn", "dense_linear")  # parts that need masks
PARTS = (*MASKS, "attentive")
FROZEN = "dense_v1"


@dataclass(frozen=True)
class DenseSettings(CommonSettings):
    encoder: str | None = option(
        None, "an encoder.safetensors, or any timm name (pretrained=true: timm's weights)", path="weights"
    )
    protocol: Group | None = option(None, "all constants of the evaluation, frozen; a result lists what was changed")
    augment: Group | None = option(None, "as the other tools have it, for the encoder's input; no view is made here")
    parts: list[str] = option(
        list(MASKS), "dense_knn (in-context retrieval) | dense_linear (logistic regression on patches) | attentive (a probe "
        "with one query, for image labels)",
    )
    budget: float = option(4.0, "GB of patch features of a source on disk, at most: beyond, of fewer images", POSITIVE)
    cache: str = option("runs/patches", "folder of cached patch features; none: they stay in memory", affects_result=False,
                        path="folder")
    picture: bool = option(True, "pictures in the report: predictions, maps of the features", affects_result=False)


ROOT = Path(__file__).resolve().parent.parent.parent
TOOL = cli.Tool(
    module="linear_eval.dense",
    primary=ROOT / "linear_eval" / "dense" / "dense.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Evaluate patch features: python -m linear_eval.dense --encoder runs/x/encoder.safetensors --data scenes",
    settings=DenseSettings,
)


def check(settings: DenseSettings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    if settings.encoder is None:
        raise ValueError("encoder=…: name the encoder to evaluate, such as runs/…/encoder.safetensors, or resnet50 "
                         "--pretrained")
    training.check(settings)
    if unknown := [part for part in settings.parts if part not in PARTS]:
        raise ValueError(f"parts={unknown[0]}: there are {', '.join(PARTS)}")
    if not settings.parts:
        raise ValueError(f"parts=[]: name one or more of {', '.join(PARTS)}")
    if settings.image_fit not in ("auto", "squash"):
        raise ValueError(f"image_fit={settings.image_fit}: every pixel of a mask needs a patch, so images are squashed whole; "
                         "leave it out")
    _check_protocol(cli.flat(settings.protocol))


def _check_protocol(numbers: Mapping[str, Any]) -> None:
    """A protocol's numbers have no types of their own: those of dense_v1.yaml show of which kind and sign they are."""
    for name, example in cli.flat(TOOL.example("protocol", FROZEN)).items():
        value = numbers[name]
        values = value if isinstance(value, list) else [value]
        kind = type(example[0] if isinstance(example, list) else example)
        alike = all(type(v) is kind or (kind is float and type(v) is int) for v in values)
        if isinstance(value, list) != isinstance(example, list) or not values or not alike:
            raise ValueError(f"protocol.{name}={value}: must be like {str(example).replace(' ', '')}")
        if kind is not str and not all(v > 0 for v in values):
            raise ValueError(f"protocol.{name}={value}: must be more than 0")


def changes(protocol: Group) -> dict[str, Any]:
    """What differs from the frozen numbers of the protocol's name."""
    numbers = cli.flat(protocol)
    frozen = cli.flat(TOOL.example("protocol", numbers["name"]))
    return {name: value for name, value in numbers.items() if frozen.get(name) != value}
