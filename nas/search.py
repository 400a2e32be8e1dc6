"""Search for encoders and hyperparameters, on this machine or with any number of others.

    uv run python -m nas.search --study fashion --data fashion_mnist --trials 50
    uv run python -m nas.search --study fashion --data fashion_mnist --trials 50 --storage postgresql+psycopg://…  # any node

This process trains nothing. It starts workers, looks after them, shows how the study stands and reports at the end; it may be
stopped at any time, and the same command goes on. Nothing here imports torch: a mistyped word is answered at once.
"""
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from core import cli, signals, training
from core.errors import Stopped
from core.machine import cores
from nas.settings import SearchSettings
from nas.study import TOOL, check, ledger, plan

WORKER = "NOLABEL_SEARCH_WORKER"  # set in the environment of a worker: its number on this machine
RESTARTS = 20  # of a worker that is killed
def main() -> int:
    return cli.main(TOOL, work if WORKER in os.environ else begin)


def begin(settings: SearchSettings) -> int:
    check(settings)
    signals.place("; no trial is lost: the same command goes on")
    with signals.deferred():
        return supervise(settings)


# --------------------------------------------------------------------------------------------------------------- a worker


def work(settings: SearchSettings) -> int:
    from core import distributed

    return distributed.guarded(partial(run, settings))


def run(settings: SearchSettings) -> int:
    """A worker: takes trials until there are none."""
    from core import distributed
    from nas.objective import Score, Train
    from nas.scheduler import Worker
    from nas.supernet import Inherit
    from vision.data import build_data

    distributed.end_with_parent()  # and give the trial back; elsewhere than on Linux beats do it
    kind = {"train": Train, "supernet": Inherit, "proxy": Score}[settings.strategy]
    study, data = ledger(settings), build_data(settings)
    study.hold_images(data.fingerprints)
    Worker(study, plan(settings), kind(settings, distributed.pick_device(settings.device, 0), data)).run()
    return 0


# --------------------------------------------------------------------------------------------------------------- them all


class Crew:
    """The workers of this machine."""

    def __init__(self, settings: SearchSettings):
        self.settings, self.folder = settings, cli.expand("runs") / "nas" / settings.study / "workers"
        gpus = training.gpus() if settings.device in ("auto", "cuda") else []
        self.gpus, self.size = gpus, settings.parallel or len(gpus) or 1
        self.arguments = cli.save(settings, self.folder / f"{os.uname().nodename}.json")
        self.processes: dict[int, subprocess.Popen] = {}
        self.restarts = 0

    def start(self, number: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {WORKER: str(number)}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.size)))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        with open(self.log(number), "ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", TOOL.module, *self.arguments], env=environment, stdout=log, stderr=log,
            )

    def log(self, number: int) -> Path:
        return self.folder / f"{os.uname().nodename}-{number}.log"

    def tend(self) -> int | None:
        """Start again who was killed or preempted.  → the exit code once all have ended, or one of them for good; else None"""
        codes = {number: process.poll() for number, process in self.processes.items()}
        for number, code in codes.items():
            if code is not None and (code < 0 or code == Stopped.code) and self.restarts < RESTARTS:
                self.restarts += 1
                self.start(number)
            elif code not in (None, 0):
                self.stop()
                print(self.last_line(number), file=sys.stderr)
                return max(code, 1)
        return 0 if all(code == 0 for code in codes.values()) else None

    def last_line(self, number: int) -> str:
        lines = self.log(number).read_text(errors="replace").strip().splitlines() or ["a worker ended without a word"]
        return f"{lines[-1]} ({self.log(number)})"

    def kill(self, worker: str) -> None:
        """One of ours that hangs."""
        for process in self.processes.values():
            if process.poll() is None and worker.split(":")[1] == str(process.pid):
                process.kill()

    def stop(self) -> None:
        """Ask all to save and give back. Who has not ended in the time after which it counts as lost hangs, and is killed."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + 2 * self.settings.interval
        for process in self.processes.values():
            try:
                process.wait(max(0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            except KeyboardInterrupt:  # a second Ctrl-C
                for other in self.processes.values():
                    other.kill()
                raise


def supervise(settings: SearchSettings) -> int:
    """Start workers, watch over the study, show it, report."""
    from nas import report
    from nas.entry import machine
    from nas.ledger import Watch
    from nas.storage import folder

    book, numbers, crew = ledger(settings, anew=True), plan(settings), Crew(settings)
    watch, view = Watch(book, settings.interval), report.View(numbers, settings.study)
    owners, supernet = {}, folder(settings.study) / "supernet"
    if settings.strategy == "supernet" and not (supernet / "encoder.safetensors").exists():
        view.say(f"first the supernet: {settings.supernet_epochs:g} epochs, in {supernet}")
    code = None
    for i in range(crew.size):
        crew.start(i)
    try:
        while not signals.requested() and (code := crew.tend()) is None:
            entries = book.entries()
            owners |= {e.number: e.owner[0] for e in entries if e.owner[0]}
            view.show(entries)
            if not entries:
                view.wait(supernet / "metrics.jsonl")
            for lost in watch.look():
                if (owners.get(lost) or "").startswith(machine() + ":"):
                    crew.kill(owners[lost])
            time.sleep(min(1.0, settings.interval / 4))
        crew.stop()
        view.show(book.entries())
    finally:
        crew.stop()
        view.close()
    report.write(book, numbers, settings.study)
    if signals.requested() and code is None:
        signals.say("stopped; the same command goes on")
        signals.answered()
        return Stopped.code
    entries = book.entries()
    if not code and not any(e.rungs for e in entries):
        last = [f"trial {e.number} was refused: {e.reason}" for e in entries if e.refused and e.choice][-1:]
        print(f"error: nothing was trained: {'; '.join(report.ends(entries) + last)}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
