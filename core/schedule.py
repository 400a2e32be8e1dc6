"""Schedules: functions of progress, the share of the run that is done, in [0, 1)."""
import math
from collections.abc import Sequence


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def stepped(progress: float, peak: float, warmup: float, at: Sequence[float], factor: float, start: float = 0.0) -> float:
    """Linear from `start` to `peak`, then `factor` times as much at each share of the run in `at`."""
    if progress < warmup:
        return start + (peak - start) * progress / warmup
    return peak * factor ** sum(progress >= share for share in at)


def plateaus(scores: Sequence[float], patience: int) -> int:
    """How often a score, of which more is better, has stood still for more than `patience` checks since it last counted.

    torch's ReduceLROnPlateau with a threshold of 0, as a function of what was seen: so nothing needs to be remembered.
    """
    best, still, count = float("-inf"), 0, 0
    for score in scores:
        best, still = (score, 0) if score > best else (best, still + 1)
        if still > patience:
            count, still = count + 1, 0
    return count


def warmup_cosine(progress: float, peak: float, warmup: float, start: float = 0.0, end: float = 0.0) -> float:
    """Linear from `start` to `peak` over the first `warmup` share of the run, then half a cosine down to `end`."""
    if progress < warmup:
        return start + (peak - start) * progress / warmup
    return cosine((progress - warmup) / (1 - warmup), peak, end)
