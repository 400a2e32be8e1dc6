"""Measures the front's latency again when a study has ended, one network after the other while no trial runs.

During the search, latency is measured beside other trials, or predicted (nas/profile.py). Whoever is on the front by such
figures is measured; who then breaks a limit leaves it, and the front is formed again, until all on it are measured and keep
the limits.
"""
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core import signals
from core.errors import NotQuantizable, Stopped
from nas.results import front_of
from nas.search_config import SearchConfig
from nas.settings import TIMED, SearchSettings
from nas.trial_record import Remeasured, TrialRecord


@dataclass(frozen=True)
class DeviceRow:
    """A trial's latency. figures: name of TIMED → ms; reference: what → ms of the reference network in the same moments;
    steady: False where times varied too much to be compared; failure: why there are no figures
    """

    figures: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    steady: bool = True
    failure: str = ""


@dataclass(frozen=True)
class DeviceFigures:
    """rows: by trial's number; machine: names of CPU and GPU; threads: of the CPU"""

    rows: dict[int, DeviceRow]
    machine: dict[str, Any]
    threads: int

    @property
    def json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(stored: dict) -> "DeviceFigures":
        rows = {int(number): DeviceRow(**row) for number, row in stored["rows"].items()}
        return DeviceFigures(**stored | {"rows": rows})


def timed_names(config: SearchConfig) -> list[str]:
    """The objectives and limits whose figures depend on the moment."""
    return [name for name in TIMED if name in config.measured]


def device_figures(store) -> DeviceFigures | None:
    """store: TrialStore"""
    return DeviceFigures.from_json(store.device) if store.device else None


def with_device(records: Sequence[TrialRecord], found: DeviceFigures | None, config: SearchConfig) -> list[TrialRecord]:
    """The trials with what was measured at the end in place of what the search had."""
    if found is None:
        return [*records]
    names, rows = [*config.objectives], found.rows
    return [replace(r, remeasured=Remeasured(rows[r.number].figures, names, rows[r.number].failure)) if r.number in rows else r
            for r in records]


def until_measured(
    records: Sequence[TrialRecord], config: SearchConfig, found: DeviceFigures, measure: Callable[[TrialRecord], DeviceRow]
) -> DeviceFigures:
    """Measure the front until all that are left on it are measured."""
    while missing := [r for r in front_of(with_device(records, found, config), config) if r.number not in found.rows]:
        found = replace(found, rows=found.rows | {r.number: measure(r) for r in missing})
    return found


def remeasure(settings: SearchSettings, store, config: SearchConfig) -> None:
    """Measure what is left to measure of an ended study, and keep it there.  store: TrialStore

    On another machine than a latency profile's it does nothing but print so: the same command on that one measures.
    Raises Stopped after a signal.
    """
    names, records = timed_names(config), store.records()
    if not names or not store.measures_at_end or not front_of(records, config):
        return
    before = device_figures(store)
    if before and all(r.number in before.rows for r in front_of(with_device(records, before, config), config)):
        return

    import torch

    from core.machine import processors
    from core.processes import pick_device
    from core.run import log_line
    from nas.device_timing import DeviceTimer, Place, figures
    from nas.latency_profile import of_plan
    from nas.space import Candidate
    from nas.workers import threads_of
    from vision import encoders

    profile = of_plan(store.plan)
    threads = profile.threads if profile else threads_of(settings)
    machine = processors()
    if profile and machine != profile.machine:
        log_line(f"note: latency is predicted, not measured: latency_profile is of {profile.machine_name}, and this is another "
                 "machine; the same command on that one measures the front")
        return
    if before and (before.machine, before.threads) != (machine, threads):
        log_line(f"note: the front was measured on {before.machine['cpu']} with threads={before.threads}; new trials on it are "
                 "not: the same command there measures them")
        return
    kept, front = torch.get_num_threads(), front_of(records, config)
    place = Place(pick_device(profile.device if profile else settings.device, 0), threads)
    log_line(f"measuring the latency of the front, {len(front)} networks, with threads={threads}")
    try:
        timer = DeviceTimer(names, place, Candidate.from_json(front[0].candidate).spec.channels, settings.image_size)

        def measure(record: TrialRecord) -> DeviceRow:
            if signals.requested():
                raise Stopped("stopped while the front was measured; the same command measures it")
            try:
                timed = timer(encoders.build(Candidate.from_json(record.candidate).spec))
            except NotQuantizable as error:
                return DeviceRow(failure=f"latency could not be measured: {error}")
            reference = {name: one.reference for name, one in timed.items()}
            row = DeviceRow(figures(names, timed), reference, all(one.steady for one in timed.values()))
            log_line(f"trial {record.number}: {', '.join(f'{name} {ms:.4g} ms' for name, ms in row.figures.items())}")
            return row

        store.set_device(until_measured(records, config, before or DeviceFigures({}, machine, threads), measure).json)
    finally:
        torch.set_num_threads(kept)
