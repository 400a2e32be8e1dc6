"""`--budget 20m`: a run that trains for so long. Its number of steps comes from the speed of a few steps, which are discarded.

The number is kept in the run's folder: a resumed run has the same one, on whatever machine.
"""
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.duration import seconds, spoken
from core.image_size import Size, sides
from core.run import log_line

if TYPE_CHECKING:
    from core.run import Run

FILE = "budget.json"
TIMED = 10  # steps
LONG = 30 * 60  # seconds that a run may take without a word on it
FIRST = 4  # of them, which warm up caches and are not counted
SHARE = 0.95  # of the budget for the steps; the rest is for saving


class Clock:
    """Listens to a run (core/run.py): when each step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def tick(self, step: int) -> None:
        self.at.append(time.monotonic())

    def log(self, step: int, row: dict) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def seconds_a_step(self) -> float:
        return statistics.median(b - a for a, b in zip(self.at[FIRST:], self.at[FIRST + 1 :], strict=False))


class Estimate(Clock):
    """Says after TIMED steps how long the run will take, where that is over LONG seconds, and what shortens it."""

    def __init__(self, steps: int, image_size: Size, budget: str | None) -> None:
        super().__init__()
        self.steps, self.image_size, self.budget = steps, image_size, budget

    def tick(self, step: int) -> None:
        if len(self.at) > TIMED:
            return
        super().tick(step)
        left = (self.steps - step) * self.seconds_a_step if len(self.at) > TIMED else 0.0
        if left > LONG and not self.budget:
            half = "x".join(map(str, dict.fromkeys(side // 2 for side in sides(self.image_size))))
            smaller = f", --image_size {half} a quarter of the work" if min(sides(self.image_size)) >= 64 else ""
            log_line(f"note: about {spoken(left)} to go at this speed; --budget 20m would train for so long{smaller}")


def planned_steps(run: "Run", budget: str, train: Callable[[Clock], None]) -> int:
    """The number of steps of a run with this budget: its own where it has begun, else by the speed of `train`'s steps.

    train(clock): TIMED steps of a method of the same kind, to which the clock listens. Collective.
    """
    from core.processes import broadcast_object

    if (kept := run.folder / FILE).exists():
        return int(json.loads(kept.read_text("utf-8"))["steps"])
    train(clock := Clock())
    return broadcast_object(max(TIMED, int(SHARE * seconds(budget) / clock.seconds_a_step)))
