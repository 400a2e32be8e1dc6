"""Runs cells in the order of their needs."""
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from core import signals
from core.errors import RunError
from experiments.cells import Cell, State, ordered
from experiments.launchers import LOOK, Launcher, stopping_signals

MAX_FAILURES = 2  # of a cell in one run of the command
MAX_RESTARTS = 100  # of a cell whose tool somebody else stopped
Report = Callable[[str, Cell, int, int], None]


def run_cells(cells: Sequence[Cell], launcher: Launcher, report: Report) -> dict[str, State]:
    """Run these cells and those that they need.  → id → DONE, FAILED, BLOCKED or STOPPED

    report(message, cell, finished, of how many): called when a cell begins and ends.
    """
    runner = _Runner(cells, launcher, report)
    with stopping_signals(launcher):
        runner.run()
    launcher.close()
    return runner.states


class _Runner:
    def __init__(self, cells: Sequence[Cell], launcher: Launcher, report: Report):
        self.launcher, self._report = launcher, report
        self.cells = {cell.id: cell for cell in by_urgency(cells)}
        self.states = {id: State.DONE for id, cell in self.cells.items() if cell.done}
        self.running: dict[Future, Cell] = {}
        self.failures: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.retry_at: dict[str, float] = {}  # cells of other runners: when to look again

    def run(self) -> None:
        while len(self.states) < len(self.cells):
            if signals.requested() and not self.launcher.stopping:
                self.launcher.stop()
            busy = {cell.id for cell in self.running.values()}
            for id, cell in self.cells.items():
                if id not in self.states and id not in busy:
                    self._advance(cell)
            finished, _ = wait(self.running, timeout=LOOK, return_when=FIRST_COMPLETED)
            if not self.running and len(self.states) < len(self.cells):
                time.sleep(LOOK)  # until another runner has finished
            for future in finished:
                self._collect(self.running.pop(future), future)

    def report(self, message: str, cell: Cell) -> None:
        self._report(message, cell, len(self.states), len(self.cells))

    def _end(self, cell: Cell, state: State) -> None:
        self.states[cell.id] = state
        self.report(state, cell)

    def _advance(self, cell: Cell) -> None:
        """Start a waiting cell, or end it without a start."""
        needs = {self.states.get(needed.id) for _, needed in cell.needs}
        if cell.id in self.retry_at and cell.done:  # by the other runner
            self._end(cell, State.DONE)
        elif self.retry_at.get(cell.id, 0) > time.monotonic():
            return
        elif self.launcher.stopping:
            self.states[cell.id] = State.STOPPED
        elif State.STOPPED in needs:
            self._end(cell, State.STOPPED)
        elif needs & {State.FAILED, State.BLOCKED}:
            self._end(cell, State.BLOCKED)
        elif needs <= {State.DONE} and len(self.running) < self.launcher.size:
            self.running[self.launcher.start(cell)] = cell
            if cell.id not in self.retry_at:
                self.report("begins", cell)

    def _collect(self, cell: Cell, future: Future) -> None:
        """What becomes of a cell whose attempt has ended."""
        state, stopping = self._state(cell, future), self.launcher.stopping
        self.failures[cell.id] += state is State.FAILED
        if state is State.ELSEWHERE:
            self.retry_at[cell.id] = time.monotonic() + self.launcher.retry_after
        elif state is State.FAILED and self.failures[cell.id] < MAX_FAILURES and not stopping:
            self.report(f"failed ({cell.last_line}); again", cell)
        elif state is State.STOPPED and self.restarts[cell.id] < MAX_RESTARTS and not stopping:
            self.restarts[cell.id] += 1  # somebody else stopped the tool: it resumes
        else:
            self._end(cell, state)

    def _state(self, cell: Cell, future: Future) -> State:
        """The result of `run_cell`. Where there is none, as of a lost job, the reason is written to the cell's log."""
        try:
            return future.result()
        except Exception as error:
            cell.write_log(str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}")
            return State.STOPPED if self.launcher.stopping else State.FAILED


def by_urgency(cells: Sequence[Cell]) -> list[Cell]:
    """These cells and those that they need, sorted by the minutes of the longest chain that begins with each."""
    everything = ordered(cells)
    minutes = {cell.id: cell.minutes for cell in everything}
    for cell in reversed(everything):  # after everything that needs it
        for _, needed in cell.needs:
            minutes[needed.id] = max(minutes[needed.id], needed.minutes + minutes[cell.id])
    return sorted(everything, key=lambda cell: -minutes[cell.id])


def shell_script(cells: Sequence[Cell]) -> str:
    """The commands of unfinished cells, each after those that it needs."""
    return "\n".join(cell.text for cell in ordered(cells) if not cell.done) + "\n"
