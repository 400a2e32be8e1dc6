"""What an evaluation by one protocol leaves: scores on the test split, and how its settings were chosen without it."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """One way of judging one source of features, from one choice of labelled images.

    scores: M,C of the test images: the greatest is the prediction. Probabilities (rows sum to 1) where `probabilities`.
    chosen: the settings that won on validation, readable: {"k": 20, "T": 0.07, "normalization": "L2"}.
    selected_on: in words, what they were chosen on: "5,000 validation images", or "nothing: fixed".
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
