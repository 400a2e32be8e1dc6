"""The records of a robustness run: rows of its results.json. No torch here. All figures in %, on test images."""
from dataclasses import asdict, dataclass
from typing import Any

from linear_eval.results import ENCODER, DataFacts, EncoderFacts


@dataclass(frozen=True)
class CorruptionScore:
    """One head under one corruption.

    accuracies, intervals: of severities 1 to 5. error: the mean of 100 − accuracy. drop: points below the clean accuracy;
    relative_drop: their share of it. corruption_error: Σ errors / Σ the reference's errors, or None where it made none.
    """

    corruption: str
    family: str
    extra: bool  # not one of the 15 that means are over
    accuracies: list[float]
    intervals: list[list[float]]
    error: float
    drop: float
    relative_drop: float
    corruption_error: float | None


@dataclass(frozen=True)
class ShiftScore:
    """One head on test images of another data set of the same classes."""

    data: str
    images: int
    accuracy: float
    interval: list[float]
    drop: float


@dataclass(frozen=True)
class RobustnessRow:
    """One head on one source of features; means are over `Robustness.mean_over`, intervals 95 %, by bootstrap over images.

    mce: the mean corruption error (arXiv 1903.12261, §4), 100 for the reference itself.
    """

    source: str
    method: str
    chosen: dict[str, Any]
    selected_on: str
    validation: float
    clean: float
    clean_interval: list[float]
    corrupted: float  # mean accuracy
    corrupted_interval: list[float]
    drop: float
    relative_drop: float
    relative_drop_interval: list[float]
    mce: float | None
    mce_interval: list[float] | None
    corruptions: list[CorruptionScore]
    shift: ShiftScore | None

    @property
    def is_encoders(self) -> bool:
        return self.source == ENCODER


@dataclass(frozen=True)
class Robustness:
    """All of results.json."""

    protocol: str
    protocol_changes: dict[str, Any]
    encoder: EncoderFacts
    data: DataFacts
    images: int  # test images, evenly spaced
    side: int  # pixels of the shorter side, at which images are corrupted
    constants: str  # which table of constants that means
    mean_over: list[str]
    reference: str
    seed: int
    command: str
    code: Any
    hardware: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: list[str]
    rows: list[RobustnessRow]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def best(self) -> RobustnessRow:
        """The encoder's row that is best on clean validation images."""
        return max((row for row in self.rows if row.is_encoders), key=lambda row: row.validation)
