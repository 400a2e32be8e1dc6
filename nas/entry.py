"""A trial as the storage has it (nas/ledger.py says what is in it), its worker, and its folders."""
import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from nas.settings import OLDER
from nas.storage import folder


class Lost(Exception):
    """Somebody else works on the trial now: this worker was taken for dead."""


@dataclass(frozen=True)
class Entry:
    """A trial as it stands in the storage."""

    trial: FrozenTrial

    @property
    def id(self) -> int:
        return self.trial._trial_id

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def state(self) -> TrialState:
        return self.trial.state

    @property
    def choice(self) -> dict | None:
        return self.trial.user_attrs.get("choice")

    @property
    def hash(self) -> str | None:
        return self.choice and self.choice["hash"]

    @property
    def asked(self) -> tuple[dict, dict[str, BaseDistribution]]:
        """The parameters that a sampler chose, and what it chose among."""
        return asked(self.choice)

    @property
    def opening(self) -> bool:
        """Is it what the space begins with?"""
        return bool(self.choice and self.choice.get("opening"))

    @property
    def broken(self) -> list[dict]:
        """What was drawn for it and cannot be built: "params", "distributions", "reason"."""
        return self.trial.user_attrs.get("broken", [])

    @property
    def costs(self) -> dict[str, float]:
        return self.trial.user_attrs.get("costs", {})

    @property
    def rungs(self) -> list[dict]:
        return [
            rung | {"figures": {OLDER.get(name, name): value for name, value in rung["figures"].items()}}
            if OLDER.keys() & rung.get("figures", {}).keys() else rung
            for rung in self.trial.user_attrs.get("rungs", [])
        ]

    @property
    def goal(self) -> int:
        return self.trial.user_attrs.get("goal", 0)

    @property
    def reason(self) -> str | None:
        return self.trial.user_attrs.get("reason")

    @property
    def owner(self) -> list:
        return self.trial.user_attrs.get("owner", [None, 0])

    @property
    def lost(self) -> int:
        return self.trial.user_attrs.get("lost", 0)

    @property
    def paused(self) -> bool:
        """At the rung that it was sent to, waiting for better or worse; else it was given back on the way."""
        return self.state == TrialState.WAITING and 0 < self.goal <= len(self.rungs)

    @property
    def given_back(self) -> bool:
        return self.state == TrialState.WAITING and not self.paused

    @property
    def refused(self) -> bool:
        """Never trained: it would not do, or it was one too many."""
        return self.state == TrialState.PRUNED and not self.rungs


def asked(said: dict) -> tuple[dict, dict[str, BaseDistribution]]:
    """As they were written down: parameters, and what they were chosen among."""
    return dict(said["params"]), {name: json_to_distribution(text) for name, text in said["distributions"].items()}


def machine() -> str:
    """This machine's name, and where process numbers mean what they mean here: a container has its own."""
    boot, names = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    where = f"{boot.read_text() if boot.exists() else ''}{names.readlink() if names.is_symlink() else ''}"
    return f"{socket.gethostname()}-{hashlib.sha256(where.encode()).hexdigest()[:6]}"


def gone(worker: str | None) -> bool:
    """Is it a process of this machine that is no more?"""
    where, _, rest = (worker or "").partition(":")
    if where != machine() or not Path("/proc/self").exists():
        return False
    stat = Path("/proc") / rest.partition(":")[0] / "stat"
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"  # ended, and not yet collected by its parent
    except OSError:
        return True


def run_folders(name: str, entry: Entry) -> list[Path]:
    """A trial's run folders, the newest first: each worker that was lost over it left one behind."""
    place = folder(name) / "trials"
    return [place / (f"{entry.number:05d}" + (f"-{lost}" if lost else "")) for lost in range(entry.lost, -1, -1)]
