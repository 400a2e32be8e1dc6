"""The records of an evaluation: the result of a protocol, a row of results.json, and the whole file. No torch here."""
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from core.image_size import Size

ENCODER = "encoder"  # the source of rows that the evaluated encoder has made


@dataclass(frozen=True)
class ProtocolResult:
    """One protocol on one source of features, from one choice of labeled images.

    scores: M,C of the test images: the greatest is the prediction. Probabilities (rows sum to 1) where `probabilities`.
    chosen: the settings that won on validation, readable: {"k": 20, "T": 0.07, "normalization": "L2"}.
    selected_on: what they were chosen on: "5,000 validation images", or "nothing: fixed".
    validation: accuracy there in %, or None.
    """

    method: str  # knn | linear | logistic | ridge | svm | random forest | finetune | …
    scores: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)
    selected_on: str = "nothing: fixed"
    validation: float | None = None
    probabilities: bool = True
    note: str = ""
    seconds: float = 0.0
    threshold: float | None = None  # where an image may have several labels: the score from which a class is predicted


@dataclass(frozen=True)
class Row:
    """A row of results.json: what rows of one label an image and of several share. Figures are in %, on test images."""

    source: str  # ENCODER, "untrained", "raw pixels", …
    method: str
    labels: float  # share of the labels; "10 %" in the file
    train_images: int
    interval: list[float]  # 95 % of the score: low, high
    std: float | None  # of the score over draws
    draws: int
    validation: float | None
    selected_on: str
    chosen: dict[str, Any]
    note: str
    seconds: float

    @property
    def is_encoders(self) -> bool:
        return self.source == ENCODER

    @property
    def score(self) -> float:
        """The figure that rows are compared by, in %."""
        raise NotImplementedError


@dataclass(frozen=True)
class ResultRow(Row):
    """Of images with one label each (linear_eval/metrics.py)."""

    accuracy: float
    top5: float | None
    balanced_accuracy: float
    macro_f1: float
    ece: float | None  # None where scores are no probabilities

    @property
    def score(self) -> float:
        return self.accuracy


@dataclass(frozen=True)
class MultilabelRow(Row):
    """Of images that may have several labels (linear_eval/average_precision.py); the interval is by bootstrap over images."""

    mean_average_precision: float  # over the classes that test images have
    average_precisions: list[float | None]  # of each class; None without a test image of it
    micro_f1: float
    macro_f1: float
    threshold: float  # the score from which on a class is predicted, chosen on validation images
    eleven_point_map: float | None = None  # PASCAL VOC 2007's mean average precision

    @property
    def score(self) -> float:
        return self.mean_average_precision


@dataclass(frozen=True)
class Figure:
    """A figure of a measure.  interval: 95 %, low and high, or None; unit: "%" or "" """

    name: str
    value: float | None
    interval: list[float] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Measure:
    """What one of `settings.MEASURES` finds about a source's features (linear_eval/measures).

    variant: of open_set, the detector. counts: of images and the like. pairs: of leakage, test and training images, most
    alike first.
    """

    part: str
    source: str
    variant: str = ""
    figures: list[Figure] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    note: str = ""
    pairs: list[list[int]] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Measure":
        return cls(**content | {"figures": [Figure(**one) for one in content["figures"]]})


@dataclass(frozen=True)
class CurvePoint:
    """Test accuracy in % from so many labels a class, over draws of the labeled images."""

    per_class: int
    mean: float
    std: float
    draws: int


@dataclass(frozen=True)
class LabelCurve:
    source: str
    points: list[CurvePoint]


@dataclass(frozen=True)
class EncoderFacts:
    name: str
    source: str  # file or name that it was loaded from
    dim: int
    parameters: int
    image_size: Size
    channels: int


@dataclass(frozen=True)
class DataFacts:
    name: str
    classes: list[str]
    train: int  # images
    validation: int
    test: int


@dataclass(frozen=True)
class Evaluation:
    """All of results.json: rows, and the provenance of them all."""

    protocol: str
    protocol_changes: dict[str, Any]  # numbers that are not the protocol's
    encoder: EncoderFacts
    data: DataFacts
    seed: int
    command: str
    code: Any
    hardware: dict[str, Any]
    versions: dict[str, str]
    seconds: float | None
    notes: list[str]
    rows: list[ResultRow] | list[MultilabelRow]
    curve: list[LabelCurve]
    measures: list[Measure] = field(default_factory=list)

    @property
    def multilabel(self) -> bool:
        """May an image have several labels?"""
        return any(isinstance(row, MultilabelRow) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        rows = [asdict(row) | {"labels": percent(row.labels)} for row in self.rows]
        content = asdict(self) | {"rows": rows}
        return content if self.measures else {name: value for name, value in content.items() if name != "measures"}


def percent(share: float) -> str:
    return f"{100 * share:g} %"
