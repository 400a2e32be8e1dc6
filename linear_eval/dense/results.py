"""The records of a dense evaluation: a row of its results.json, and the whole file. No torch here."""
from dataclasses import asdict, dataclass
from typing import Any

from linear_eval.dense.metrics import ClassRow, SegmentationFigures
from linear_eval.results import ENCODER, DataFacts, EncoderFacts


@dataclass(frozen=True)
class DenseRow:
    """One way of segmenting with one source's patches: figures in % on test images (linear_eval/dense/metrics.py)."""

    source: str  # ENCODER, "untrained", "raw patches", "HOG cells", "most common class"
    method: str  # dense_knn | dense_linear | constant
    figures: SegmentationFigures
    classes: list[ClassRow]
    patches: int  # of the bank, or that the linear layer is fitted on
    train_images: int  # they come from
    chosen: dict[str, Any]
    selected_on: str  # "200 validation images", or "nothing: fixed"
    validation: float | None  # mIoU there, in %, of the setting that was chosen
    note: str
    seconds: float

    @property
    def is_encoders(self) -> bool:
        return self.source == ENCODER

    @property
    def miou(self) -> float:
        return self.figures.miou.value or 0.0


@dataclass(frozen=True)
class DenseEvaluation:
    """All of results.json.  grid: h,w of the patches of an image"""

    protocol: str
    protocol_changes: dict[str, Any]  # numbers that are not the protocol's
    encoder: EncoderFacts
    data: DataFacts
    grid: tuple[int, int]
    seed: int
    command: str
    code: Any
    hardware: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: list[str]
    rows: list[DenseRow]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
