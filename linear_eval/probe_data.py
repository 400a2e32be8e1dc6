"""Features and labels as the protocols take them: records in place of arrays by position."""
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Rows = np.ndarray | Tensor


@dataclass(frozen=True)
class Labeled:
    """Features with their labels.  x: N,D, possibly memory-mapped; labels: N"""

    x: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class ProbeData:
    """What a protocol fits on, chooses its settings on, and predicts.

    test: M,D. Its labels are not here, so that nothing can be chosen by them.
    """

    train: Labeled
    validation: Labeled
    test: Rows
    classes: int

    @property
    def selected_on(self) -> str:
        return f"{len(self.validation):,} validation images"
