"""The record of a trained segmenter: all of its results.json. No torch here."""
from dataclasses import asdict, dataclass
from typing import Any

from linear_eval.dense.metrics import ClassRow, SegmentationFigures
from linear_eval.results import EncoderFacts


@dataclass(frozen=True)
class SegmentationRow:
    """Figures on test images.  source: "encoder", or "most common class", which predicts that of train everywhere"""

    source: str
    method: str
    figures: SegmentationFigures


@dataclass(frozen=True)
class SegmentationResult:
    """validation: the mIoU that chose the weights, in %; chosen_at: after which step of `steps`.
    train, validation_images, test: images.  classes: of the encoder's row
    """

    encoder: EncoderFacts
    data: str
    train: int
    validation_images: int
    test: int
    rows: list[SegmentationRow]
    classes: list[ClassRow]
    validation: float
    chosen_at: int
    steps: int
    seed: int
    seconds: float
    notes: list[str]
    command: str
    code: Any
    hardware: dict[str, Any]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
