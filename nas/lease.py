"""Heartbeats of workers, and the release of trials whose lease has expired.

A heartbeat is a counter that others watch, not a time that they read: clocks of different machines need not agree.
"""
import time
from collections.abc import Callable

from optuna.trial import TrialState

from core.errors import Stopped
from nas.store import TrialStore
from nas.trial_record import Lease, TrialRecord
from nas.worker_name import process_ended

MAX_EXPIRED_LEASES = 5  # a trial whose workers were lost so often is at fault itself
STOPPED = "stopped by a signal; the same command resumes"


class Heartbeat:
    """Renews a trial's lease when called, at most every third of an interval.

    Raises Stopped after a signal, LeaseLost where another worker has the trial.
    """

    def __init__(self, store: TrialStore, id: int, interval: float, should_stop: Callable[[], bool]):
        self.store, self.id, self.interval, self.should_stop = store, id, interval, should_stop
        self.last = time.monotonic()

    def __call__(self) -> None:
        if self.should_stop():
            raise Stopped(STOPPED)
        if time.monotonic() - self.last > self.interval / 3:
            self.store.heartbeat(self.id)
            self.last = time.monotonic()


class LeaseMonitor:
    """Releases the trials of workers that were killed, hang, were preempted or cut off.

    A lease has expired when it stays the same for two intervals, and at once where its process on this machine has ended.
    """

    def __init__(self, store: TrialStore, interval: float):
        self.store, self.interval = store, interval
        self.seen: dict[int, tuple[Lease, float]] = {}  # trial → (lease, when it was first seen so)

    def release_expired(self) -> list[TrialRecord]:
        """→ the trials that were released now, with the leases that had expired"""
        released, now = [], time.monotonic()
        for record in self.store.all_records():
            if record.state != TrialState.RUNNING:
                self.seen.pop(record.id, None)
                continue
            lease, since = self.seen.get(record.id, (None, now))
            if lease != record.lease:
                lease, since = record.lease, now
            self.seen[record.id] = lease, since
            if now - since > 2 * self.interval or process_ended(lease.worker):
                self.store.release_expired(record, MAX_EXPIRED_LEASES)
                released.append(record)
        return released
