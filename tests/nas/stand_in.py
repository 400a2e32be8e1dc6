"""A worker whose training is a stand-in: figures are a function of choice and epochs, an epoch takes a moment, and what was
trained lies in a file as a checkpoint would. Signals that hit it hit what a real worker does: storage, beats, folders.

    python -m tests.nas.stand_in STORAGE FOLDER TRIALS RUNGS INTERVAL
"""
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from core.distributed import guarded
from nas.ledger import Ledger
from nas.scheduler import Halving, Plan, Worker

EPOCH = 0.03  # seconds


class StandIn:
    """4,096 choices.  folder: where checkpoints lie, and log, a line for each epoch that was trained."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    opening = None

    def choose(self, trial):
        point = {name: trial.suggest_int(name, 0, 7) for name in "abcd"}
        text = json.dumps(point, sort_keys=True)
        return SimpleNamespace(json={"point": point}, hash=hashlib.sha256(text.encode()).hexdigest()[:16])

    def costs(self, choice) -> dict[str, float]:
        return {"macs": float(sum(choice.json["point"].values()))}

    def advance(self, choice, entry, epochs, beat) -> dict[str, float]:
        mine = self.folder / f"{entry.number}-{entry.lost}"
        for lost in range(entry.lost, -1, -1):
            before = self.folder / f"{entry.number}-{lost}"
            if before.exists() and before.read_text():
                done = int(before.read_text())
                break
        else:
            done = 0
        while done < epochs:
            time.sleep(EPOCH)
            done += 1
            with open(self.folder / "log", "a") as log:
                log.write(f"{entry.number} {done} {os.getpid()}\n")
            whole = mine.with_suffix(".new")
            whole.write_text(str(done))
            os.replace(whole, mine)
            beat()
        return {"knn": worth(choice["hash"], done)}


def worth(hash: str, epochs: int) -> float:
    return int(hash[:6], 16) / 2**24 * 20 + 70 - 10 / epochs


def plan(trials: int, rungs: int, interval: float) -> Plan:
    objectives = {"knn": "maximize", "macs": "minimize"}
    return Plan(trials, Halving.of(3 ** (rungs - 1) if rungs > 1 else 6, rungs, 3), objectives, {}, "random", 0, interval)


def main() -> int:
    storage, folder, trials, rungs, interval = sys.argv[1:]
    numbers = plan(int(trials), int(rungs), float(interval))
    Worker(Ledger("study", storage, numbers.objectives, {"rungs": rungs}), numbers, StandIn(Path(folder))).run()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
