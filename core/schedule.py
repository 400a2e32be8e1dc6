"""Schedules: functions of progress, the share of the run that is done, in [0, 1)."""
import math


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def warmup_cosine(progress: float, peak: float, warmup: float, start: float = 0.0, end: float = 0.0) -> float:
    """Linear from `start` to `peak` over the first `warmup` share of the run, then half a cosine down to `end`."""
    if progress < warmup:
        return start + (peak - start) * progress / warmup
    return cosine((progress - warmup) / (1 - warmup), peak, end)
