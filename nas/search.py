"""Search for encoders and hyperparameters, on this machine or with any number of others.

    uv run python -m nas.search --study fashion --data fashion_mnist --trials 50
    uv run python -m nas.search --study fashion --data fashion_mnist --trials 50 --storage postgresql+psycopg://…  # any node

This process trains nothing. It starts workers, watches them, shows the study's progress and reports at the end. It may be
stopped at any time, and the same command resumes. Nothing here imports torch: a mistyped setting is answered at once.
"""
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from core import cli, signals
from core.errors import RunError, Stopped
from nas.checks import check
from nas.settings import SearchSettings
from nas.study import TOOL, open_store, planned_config, search_config
from nas.workers import WORKER, WorkerFailed, WorkerPool

if TYPE_CHECKING:
    from nas.results import SearchResult
    from nas.store import TrialStore
    from nas.trial_record import TrialRecord


def search(settings: SearchSettings) -> "SearchResult":
    """Run a study to its end, or resume it, in worker processes.

    Raises ValueError for a wrong setting; Stopped after a signal; RunError where a worker fails, or nothing could be trained.
    In the last two cases too, the report is written.
    """
    result, error = run_study(settings)
    if error:
        raise error
    return result


def run_study(settings: SearchSettings) -> "tuple[SearchResult, RunError | None]":
    """As `search`; → its result, and what ended the study early."""
    check(settings)
    from nas import report
    from nas.remeasure import remeasure
    from nas.results import end_reasons

    with signals.deferred():
        store = open_store(settings, reset_untrained=True)
        error = supervise(settings, store)
        if error is None:
            try:
                remeasure(settings, store, search_config(settings))
            except Stopped as stop:
                error = stop
        result = report.write(store, search_config(settings))
        if isinstance(error, Stopped):
            signals.answered()
    if error is None and not any(r.rungs for r in result.trials):
        last = [f"trial {r.number} was rejected: {r.reason}" for r in result.trials if r.rejected and r.candidate][-1:]
        error = RunError(f"nothing was trained: {'; '.join(end_reasons(result.trials) + last)}")
    return result, error


def supervise(settings: SearchSettings, store: "TrialStore") -> RunError | None:
    """Start workers, show progress, and kill workers that hang until the study ends.  → what ended it early"""
    from nas.checkpoints import remove_checkpoints
    from nas.lease import LeaseMonitor
    from nas.progress import ProgressView
    from nas.storage import study_folder
    from nas.worker_name import pid_here

    pool, monitor = WorkerPool(settings), LeaseMonitor(store, settings.interval)
    cleaned: set[int] = set()

    def look() -> list["TrialRecord"]:
        """Show the trials, and clean up behind them and their replicates.  → the trials"""
        everything = store.all_records()
        records = [r for r in everything if not r.replicate]
        view.show(records)
        if settings.checkpoints == "unfinished":
            cleaned.update(remove_checkpoints(settings.study, [r for r in everything if r.number not in cleaned]))
        return records

    view, supernet = ProgressView(search_config(settings), settings.study), study_folder(settings.study) / "supernet"
    if settings.strategy == "supernet" and not (supernet / "encoder.safetensors").exists():
        view.print(f"first the supernet: {settings.supernet_epochs:g} epochs, in {supernet}")
    error, ended, planned = None, False, not store.has_plan
    pool.start()
    try:
        while not signals.requested() and not ended:
            planned = planned or view.show_plan(store.plan)
            if not look():
                view.show_supernet(supernet / "metrics.jsonl")
            for record in monitor.release_expired():
                if (pid := pid_here(record.lease.worker)) is not None:
                    pool.kill(pid)
            time.sleep(min(1.0, settings.interval / 4))
            ended = pool.poll()
    except WorkerFailed as failure:
        error, ended = failure, True
    finally:
        pool.stop()
        view.close()
    if not planned:
        view.show_plan(store.plan)
    look()
    return error if ended else Stopped("stopped; the same command resumes")


# ---- commands


def begin(settings: SearchSettings) -> int:
    """Run the study, print its report."""
    from nas import report
    from nas.folder_plan import planned

    signals.place("; no trial is lost: the same command resumes")
    check(settings)
    settings = planned(settings)
    result, error = run_study(settings)
    report.show(result)
    if error is None and settings.budget and (note := ended_by_budget(result, settings)):
        print(note)
    if isinstance(error, Stopped):
        signals.say(error)
        return error.code
    if error:
        raise error
    return 0


def ended_by_budget(result: "SearchResult", settings: SearchSettings) -> str | None:
    """Whether the budget was over before all trials were there, in a line."""
    from nas.results import end_reasons

    trials = sum(not r.rejected for r in result.trials)
    if trials >= settings.trials or end_reasons(result.trials):
        return None
    more = "the same command with a larger one adds more"
    return f"budget={settings.budget}: over after {trials} of {settings.trials} trials; {more}"


def work(settings: SearchSettings) -> int:
    """Be a worker."""
    from core import guard

    return guard.run_guarded(partial(run_worker, settings))


def run_worker(settings: SearchSettings) -> int:
    """Work on the study's trials until there are none."""
    from core import guard, processes
    from nas.evaluators import Bounds, ProxyEvaluator, TrainEvaluator
    from nas.plan import kept_profile
    from nas.scheduler import Worker
    from nas.supernet_evaluator import SupernetEvaluator
    from vision.data import build_data

    guard.end_with_parent()  # and release the trial; elsewhere than on Linux its lease expires
    evaluator = {"train": TrainEvaluator, "supernet": SupernetEvaluator, "proxy": ProxyEvaluator}[settings.strategy]
    store, data = open_store(settings), build_data(settings)
    store.check_images(data.fingerprints)
    device = processes.pick_device(settings.device, 0)
    config = planned_config(settings, store, data)
    profile = kept_profile(settings, store.plan)
    Worker(store, config, evaluator(settings, device, data, Bounds(config.limits, config.least), profile)).run()
    return 0


def main() -> int:
    return cli.main(TOOL, work if WORKER in os.environ else begin)


if __name__ == "__main__":
    sys.exit(main())
