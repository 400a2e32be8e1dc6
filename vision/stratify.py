"""Images held out where each may have several labels, so that every class keeps its share on both sides.

Iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011,
algorithm 1, for two subsets.
"""

from __future__ import annotations

import numpy as np


def iterative_holdout(labels: np.ndarray, order: np.ndarray, share: float, cap: int) -> np.ndarray:
    """Which images to hold out.  labels: N,K of 0 and 1; order: N, the images in random order → N bool

    The class with the fewest images that are not dealt yet comes first; each of its images goes to the side that lacks more
    of the class, then to the one that lacks more images, then stays. Images without a class are dealt by the last two rules.
    Every class with two images or more gives one, and keeps one; at most `cap` images are held out.
    """
    count = len(labels)
    held_out = np.zeros(count, bool)
    if not count or share <= 0:
        return held_out
    labels = labels.astype(np.int64)
    totals = labels.sum(0)
    wanted = min(round(share * count), cap)
    lacking = np.where(totals > 1, np.maximum(totals * (wanted / count), 1.0), 0.0)  # of each class, held out
    staying = totals - lacking
    images = np.array([float(wanted), float(count - wanted)])  # that each side lacks: held out, staying
    remaining, dealt, of_class = totals.copy(), np.zeros(count, bool), labels[order].astype(bool)

    def deal(image: int, to_holdout: bool) -> None:
        if to_holdout:
            np.subtract(lacking, labels[image], out=lacking)
        else:
            np.subtract(staying, labels[image], out=staying)
        images[0 if to_holdout else 1] -= 1
        np.subtract(remaining, labels[image], out=remaining)
        held_out[image], dealt[image] = to_holdout, True

    while (left := np.flatnonzero(remaining)).size:
        one = left[remaining[left].argmin()]
        for image in order[of_class[:, one]].tolist():
            if not dealt[image]:
                more = lacking[one] - staying[one] or images[0] - images[1]
                deal(image, bool(more > 0 and held_out.sum() < cap))
    for image in order.tolist():
        if not dealt[image]:
            deal(image, bool(images[0] > images[1] and held_out.sum() < cap))
    return held_out
