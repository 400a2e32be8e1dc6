"""A worker whose training is a stand-in: figures are a function of candidate and epochs, an epoch takes a moment, and what was
trained lies in a file as in a checkpoint. Signals that hit it hit what a real worker does: storage, heartbeats, folders.

    python -m tests.nas.stand_in STORAGE FOLDER TRIALS RUNGS INTERVAL
"""
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from core.guard import run_guarded
from nas.halving import Halving
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.store import TrialStore

EPOCH = 0.03  # seconds


class StandIn:
    """4,096 candidates.  folder: where checkpoints lie, and log, a line for each epoch that was trained."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    initial = None

    def sample(self, trial):
        point = {name: trial.suggest_int(name, 0, 7) for name in "abcd"}
        text = json.dumps(point, sort_keys=True)
        return SimpleNamespace(json={"point": point}, hash=hashlib.sha256(text.encode()).hexdigest()[:16])

    def costs(self, candidate) -> dict[str, float]:
        return {"macs": float(sum(candidate.json["point"].values()))}

    def advance(self, candidate, record, epochs, heartbeat) -> dict[str, float]:
        mine = self.folder / f"{record.number}-{record.expired_leases}"
        for lease in range(record.expired_leases, -1, -1):
            before = self.folder / f"{record.number}-{lease}"
            if before.exists() and before.read_text():
                done = int(before.read_text())
                break
        else:
            done = 0
        while done < epochs:
            time.sleep(EPOCH)
            done += 1
            with open(self.folder / "log", "a") as log:
                log.write(f"{record.number} {done} {os.getpid()}\n")
            whole = mine.with_suffix(".new")
            whole.write_text(str(done))
            os.replace(whole, mine)
            heartbeat()
        return {"knn": accuracy(candidate["hash"], done)}


def accuracy(hash: str, epochs: int) -> float:
    return int(hash[:6], 16) / 2**24 * 20 + 70 - 10 / epochs


def config(trials: int, rungs: int, interval: float) -> SearchConfig:
    objectives = {"knn": "maximize", "macs": "minimize"}
    halving = Halving.of(3 ** (rungs - 1) if rungs > 1 else 6, rungs, 3)
    return SearchConfig(trials, halving, objectives, {}, "random", 0, interval)


def main() -> int:
    storage, folder, trials, rungs, interval = sys.argv[1:]
    settings = config(int(trials), int(rungs), float(interval))
    Worker(TrialStore("study", storage, settings.objectives, {"rungs": rungs}), settings, StandIn(Path(folder))).run()
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main))
