"""How long an answer takes: percentiles of many, after a warm-up, for one image and for more."""
import time

import numpy as np

from deploy.runtime import Answer

WARMUP, SECONDS, LEAST, MOST = 5, 1.5, 20, 400  # answers before the clock counts; then for so long, and so many


def timed(answer: Answer, images: np.ndarray) -> dict[str, float]:
    """Milliseconds of an answer to these images, and images a second by the median: {"p50", "p95", "p99",
    "images_per_second"}.
    """
    for _ in range(WARMUP):
        answer(images)
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < MOST):
        start = time.perf_counter()
        answer(images)
        times.append(time.perf_counter() - start)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {"p50": p50 * 1e3, "p95": p95 * 1e3, "p99": p99 * 1e3, "images_per_second": len(images) / p50}


def interleaved(given: dict[str, tuple[Answer, np.ndarray]], rounds: int = 3) -> dict[str, dict[str, float]]:
    """Each in turn, several times over, so that a busy moment of the machine hits all; of each the round of the median.

    given: name → (answer, the images it is asked about)
    """
    found: dict[str, list] = {name: [] for name in given}
    for _ in range(rounds):
        for name, (answer, images) in given.items():
            found[name].append(timed(answer, images))
    return {name: sorted(rows, key=lambda row: row["p50"])[rounds // 2] for name, rows in found.items()}
