"""Latency and throughput: percentiles of many calls after a warm-up."""
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WARMUP, SECONDS, LEAST, MOST = 5, 1.5, 20, 400  # calls before the clock starts; then for so long, and so many calls


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, and images a second by the median."""

    p50: float
    p95: float
    p99: float
    images_per_second: float


@dataclass(frozen=True)
class Case:
    """What is timed: a call with these images."""

    runner: Callable[[np.ndarray], object]
    images: np.ndarray


def timed(case: Case) -> Timing:
    for _ in range(WARMUP):
        case.runner(case.images)
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < MOST):
        start = time.perf_counter()
        case.runner(case.images)
        times.append(time.perf_counter() - start)
    p50, p95, p99 = (float(p) for p in np.percentile(times, [50, 95, 99]))
    return Timing(p50 * 1e3, p95 * 1e3, p99 * 1e3, len(case.images) / p50)


def interleaved(cases: dict[str, Case], rounds: int = 3) -> dict[str, Timing]:
    """Time each case in turn, several times, so that a busy moment of the machine hits all.  → of each its median round"""
    timings: dict[str, list[Timing]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            timings[name].append(timed(case))
    return {name: sorted(rows, key=lambda row: row.p50)[rounds // 2] for name, rows in timings.items()}
