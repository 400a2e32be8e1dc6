"""Latency and throughput: percentiles of many calls after a warm-up."""
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Name = TypeVar("Name")

STEADY = 2.0  # the largest ratio of the 95th percentile to the median at which times are compared in a sentence
WARMUP, SECONDS, LEAST, MOST = 5, 1.5, 20, 400  # calls before the clock starts; then for so long, and so many calls


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, and images a second by the median."""

    p50: float
    p95: float
    p99: float
    images_per_second: float


def unsteady(name: str, p50: float, p95: float) -> str | None:
    """Why a time is not compared: something else ran on the machine.  None where the times are steady"""
    return None if p95 <= STEADY * p50 else f"{name} took {p50:.3g} ms in the median, and {p95:.3g} ms at the 95th percentile"


def timed(call: Callable[[], object], images: int) -> Timing:
    """Time a call that takes so many images."""
    for _ in range(WARMUP):
        call()
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < MOST):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    p50, p95, p99 = (float(p) for p in np.percentile(times, [50, 95, 99]))
    return Timing(p50 * 1e3, p95 * 1e3, p99 * 1e3, images / p50)


def interleaved(calls: dict[Name, Callable[[], object]], images: int, rounds: int = 3) -> dict[Name, Timing]:
    """Time each call in turn, several times, so that a busy moment of the machine hits all.  → of each its median round"""
    timings: dict[Name, list[Timing]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timings[name].append(timed(call, images))
    return {name: sorted(rows, key=lambda row: row.p50)[rounds // 2] for name, rows in timings.items()}
