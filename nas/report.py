"""Reports a study: a page, and the front's encoders.

    uv run python -m nas.report --study fashion
    uv run python -m nas.report --study fashion --compare other  # compare.md and compare.png too

leaves in runs/nas/<study>: report.md, report.html, results.json, front.svg, history.svg, front/<trial>/encoder.safetensors, and
the winner, of which most is expected by the first objective, as encoder.safetensors.
"""
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from core import checkpoint, cli
from core.machine import code, hardware, versions
from core.page import write_report
from nas import device_report, report_page, study
from nas.budget import spent
from nas.compare import Study
from nas.compare import write as compare_fronts
from nas.posterior import Posterior, expectation, posterior
from nas.remeasure import device_figures, with_device
from nas.results import SearchResult, front_of, total_epochs
from nas.search_config import SearchConfig
from nas.settings import ReportSettings, SearchSettings
from nas.storage import study_folder
from nas.store import TrialStore
from nas.trial_record import TrialRecord
from nas.verification import by_expectation

FILE = "encoder.safetensors"
TOOL = replace(study.TOOL, module="nas.report", summary="Report a study: python -m nas.report --study fashion",
               settings=ReportSettings)


def report(settings: SearchSettings) -> SearchResult:
    """Write the report of an existing study, by the settings that it was begun with: its name and storage suffice.

    Raises ValueError, RunError.
    """
    store = TrialStore(settings.study, settings.storage)
    return write(store, study.search_config(begun_settings(store, settings)))


def compare(settings: ReportSettings) -> str:
    """Write the fronts of this study and of those that `compare` names, and → the text.  Raises ValueError, RunError."""
    found = []
    for name in dict.fromkeys([settings.study, *filter(None, settings.compare.replace(" ", "").split(","))]):
        store = TrialStore(name, settings.storage)
        config = study.search_config(begun_settings(store, settings))
        records = with_device(store.records(), device_figures(store), config)
        found.append(Study(name, store.settings or {}, config, records, store.replicates()))
    return compare_fronts(found, study_folder(settings.study))


def begun_settings(store: TrialStore, settings: SearchSettings) -> SimpleNamespace:
    """Those that the study was begun with, and of what it does not keep, these."""
    return SimpleNamespace(**(cli.flat(settings) | (store.settings or {})))


def write(store: TrialStore, config: SearchConfig) -> SearchResult:
    """Report, results.json and encoders in the study's folder."""
    device = device_figures(store)
    records, replicates, folder = with_device(store.records(), device, config), store.replicates(), study_folder(store.name)
    found = posterior(records, config.objectives, len(config.halving.rungs), replicates)
    front = front_of(records, config)
    winner = next(iter(by_expectation(front, found)), None)
    folder.mkdir(parents=True, exist_ok=True)
    encoders = copy_encoders(folder, store.name, front, winner)
    document = {
        "study": store.name, "settings": store.settings, "trials": [row(r) | expected(r, found) for r in records],
        "replicates": [row(r) | {"of": r.replicate.of, "seed": r.replicate.seed} for r in replicates if r.replicate],
        "winner": winner and winner.number,
        "front": [r.number for r in front], "epochs": total_epochs(records), "hardware": hardware(),
        "versions": versions(("optuna", "torch", "timm")), "code": code(),
    } | ({"device": device.json} if device else {})
    checkpoint.write(folder / "results.json", json.dumps(document, indent=1) + "\n")
    plan = store.plan or {}
    about = device_report.lines(records, config, device, predicts=bool(plan.get("profile"))) if store.measures_at_end else []
    seen = report_page.Study(store.name, records, replicates, config, found, winner, plan, store.settings or {}, about)
    page = write_report(lambda name, content: checkpoint.write(folder / name, content), lambda: report_page.page(seen))
    summary = page.text(report_page.PRINTED) if page else f"# {store.name}"
    return SearchResult(store.name, store.settings, folder, records, front, encoders, summary, winner, found)


def show(result: SearchResult) -> None:
    """Print the summary, and where the files are."""
    print(result.summary)
    if (result.folder / "report.html").exists():
        print(f"report: {result.folder / 'report.html'}")
    elsewhere = [str(r.number) for r in result.front if r.number not in result.encoders]
    if elsewhere and result.settings["strategy"] != "proxy":  # which trains none
        print(f"not on this machine: the front's encoders of trials {', '.join(elsewhere)}")
    if result.encoders:
        print(f"encoders: {result.folder / 'front'}")


def copy_encoders(folder: Path, study: str, front: Sequence[TrialRecord], winner: TrialRecord | None) -> dict[int, Path]:
    """Copy the encoders of the front, and the winner's, to the study's folder; delete those of an earlier front.

    → trial's number → its file, of those on this machine
    """
    encoders, names = {}, {f"{r.number:05d}" for r in front}
    for old in (folder / "front").glob("*"):
        if old.name not in names:
            shutil.rmtree(old, ignore_errors=True)
    for r in front:
        target = folder / "front" / f"{r.number:05d}" / FILE
        source = next((run / FILE for run in r.run_folders(study) if (run / FILE).exists()), None)
        if source:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        if target.exists():
            encoders[r.number] = target
    if winner and winner.number in encoders:
        shutil.copy2(encoders[winner.number], folder / FILE)
    else:
        (folder / FILE).unlink(missing_ok=True)
    return encoders


def row(r: TrialRecord) -> dict:
    """A trial in results.json."""
    rungs = [{name: value for name, value in rung.json.items() if name != "seconds"} for rung in r.rungs]
    return {
        "number": r.number, "state": r.state.name, "params": r.trial.params, "costs": r.costs,
        "rungs": rungs, "seconds": spent([r]), "hash": r.hash, "reason": r.reason, "lost": r.expired_leases,
        "encoder": r.candidate and r.candidate["encoder"],
    } | ({"methods": r.methods} if r.methods else {}) | ({"first_costs": r.first_costs} if r.remeasured.costs else {})


def expected(r: TrialRecord, found: Posterior | None) -> dict:
    """What is expected of a trial's candidate in a fresh training, in results.json."""
    mean, interval = expectation(r, found)
    return {} if mean is None else {"expected": mean, "expected_interval": interval}


def run(settings: ReportSettings) -> None:
    """The command: write the report, and the comparison where one is asked for, and print them."""
    show(report(settings))
    if settings.compare:
        print(f"\n{compare(settings)}\ncomparison: {study_folder(settings.study) / 'compare.md'}")


def main() -> int:
    return cli.main(TOOL, run)


if __name__ == "__main__":
    sys.exit(main())
