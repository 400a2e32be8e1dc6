"""Hits of heads on clean and corrupted images → rows: accuracies, corruption errors, drops, intervals."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from linear_eval.robustness.heads import Head
from linear_eval.robustness.reference import Reference
from linear_eval.robustness.results import CorruptionScore, RobustnessRow, ShiftScore
from linear_eval.robustness.sample import Sample, resampled
from vision.corruptions import CORRUPTIONS


@dataclass(frozen=True)
class Hits:
    """Which images each head gets right.  clean: heads,N bool; corrupted: name → heads,5,N bool"""

    clean: np.ndarray
    corrupted: dict[str, np.ndarray]

    @property
    def mean_over(self) -> list[str]:
        """The corruptions that means are over: those of the 15 that there are."""
        return [name for name in self.corrupted if not CORRUPTIONS[name].extra]

    def cells(self) -> np.ndarray:
        """→ heads,1 + 5·corruptions,N"""
        return np.concatenate([self.clean[:, None], *self.corrupted.values()], axis=1)


def rows(heads: Sequence[Head], hits: Hits, reference: Reference, shifts: Sequence[ShiftScore | None], resamples: int,
         seed: int) -> list[RobustnessRow]:
    """A row a head, in their order."""
    cells, names, over = hits.cells(), list(hits.corrupted), hits.mean_over
    point, sample = Sample(cells.mean(-1) * 100, names), Sample(resampled(cells, resamples, seed), names)
    ends = np.percentile(sample.accuracy, [2.5, 97.5], axis=0)  # 2,heads,cells

    def interval(statistic: Callable[[Sample], np.ndarray], h: int) -> list[float]:
        return np.percentile(statistic(sample)[..., h], [2.5, 97.5]).tolist()

    def corrupted(some: Sample) -> np.ndarray:
        return 100 - some.errors(over).mean(-1)

    def relative_drop(some: Sample) -> np.ndarray:
        return 100 * (some.clean - corrupted(some)) / np.maximum(some.clean, 1e-9)

    def mce(some: Sample) -> np.ndarray:
        return 100 * (some.errors(over) / _above_zero(reference.errors(some, over))[..., None, :]).mean(-1)

    compared = bool(over) and bool((reference.errors(point, over) > 0).all())
    found = []
    for h, (head, shift) in enumerate(zip(heads, shifts, strict=True)):
        clean = float(point.clean[h])
        scores = []
        for i, name in enumerate(names):
            at = slice(1 + 5 * i, 6 + 5 * i)
            error, against = float(point.errors([name])[h, 0]), float(reference.errors(point, [name])[0])
            kind = CORRUPTIONS[name]
            scores.append(CorruptionScore(
                name, kind.family, kind.extra, point.accuracy[h, at].tolist(), ends[:, h, at].T.tolist(),
                error, clean - 100 + error, 100 * (clean - 100 + error) / max(clean, 1e-9),
                100 * error / against if against > 0 else None,
            ))  # fmt: skip
        found.append(RobustnessRow(
            head.source, head.method, head.chosen, head.selected_on, head.validation,
            clean=clean, clean_interval=ends[:, h, 0].tolist(),
            corrupted=float(corrupted(point)[h]), corrupted_interval=interval(corrupted, h),
            drop=clean - float(corrupted(point)[h]), relative_drop=float(relative_drop(point)[h]),
            relative_drop_interval=interval(relative_drop, h),
            mce=float(mce(point)[h]) if compared else None, mce_interval=interval(mce, h) if compared else None,
            corruptions=scores, shift=shift,
        ))  # fmt: skip
    return found


def _above_zero(errors: np.ndarray) -> np.ndarray:
    """A resample without an error of the reference's has no ratio: it counts as a hundredth of a point."""
    return np.maximum(errors, 0.01)
