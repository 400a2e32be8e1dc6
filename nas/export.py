"""Exports the front of a study: each encoder as ONNX in float32 and INT8, measured, beside an index of all.

    uv run python -m nas.export --study fashion --out exported

writes a folder of deploy.export for each trial of the front, and index.md, index.html and index.json. Images are the study's;
a folder of images is given again, as --data folder --data.root. Every setting of deploy.export may be given.
"""
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli, training
from core.errors import RunError
from nas.settings import FrontExportSettings

if TYPE_CHECKING:
    from nas.export_index import FrontIndex

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="nas.export",
    primary=ROOT / "nas" / "export.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Export the front of a study: python -m nas.export --study fashion --out exported",
    settings=FrontExportSettings,
)
OWN = ("study", "storage", "out", "encoder")  # settings that deploy.export does not get from here


def check(settings: FrontExportSettings) -> None:
    """Raises ValueError for the first setting that is wrong."""
    training.check(settings)
    if "encoder" in cli.explicit(settings):
        raise ValueError(f"encoder={settings.encoder}: leave it out, the study's front is exported; or use deploy.export")


def export_front(settings: FrontExportSettings) -> "FrontIndex":
    """Export every encoder of the front that is on this machine, and write the index.  Raises ValueError, RunError."""
    check(settings)

    from core import checkpoint
    from core.run import log_line
    from deploy import export
    from nas import report, study
    from nas.export_index import FrontIndex, row_of
    from nas.posterior import noisy_objective
    from nas.storage import study_folder
    from nas.store import TrialStore
    from nas.verification import by_expectation

    store = TrialStore(settings.study, settings.storage)
    config = study.search_config(report.begun_settings(store, cli.from_arguments(study.TOOL, [])))
    result = report.write(store, config)
    found = result.posterior
    folder = study_folder(settings.study) / "export" if settings.out == "auto" else cli.expand(settings.out)
    given, rows = images_of_study(settings, store.settings or {}), []
    objective = noisy_objective(config.objectives) or next(iter(config.objectives))
    members = [r for r in by_expectation(result.front, found) if r.number in result.encoders]
    if not members:
        raise RunError(f"study={settings.study}: no encoder of its front is on this machine; give the command where they were "
                       "trained, or put runs/ on a shared file system")
    for i, record in enumerate(members):
        log_line(f"trial {record.number}, {i + 1} of {len(members)}")
        changes = {"encoder": result.encoders[record.number], "out": folder / f"{record.number:05d}", **given}
        try:
            exported = export.export(cli.derive(export.TOOL, settings, OWN, changes=changes))
        except RunError as error:
            log_line(f"trial {record.number} is left out: {error}")
            rows.append(row_of(record, objective, found, failure=str(error)))
        else:
            rows.append(row_of(record, objective, found, exported))
    missing = tuple(r.number for r in result.front if r not in members)
    index = FrontIndex(settings.study, folder, objective, rows, missing)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in index.files.items():
        checkpoint.write(folder / name, content)
    return index


def images_of_study(settings: FrontExportSettings, kept: dict[str, Any]) -> dict[str, Any]:
    """The settings of the study's images that are not given, and INT8 kept where it is smaller alone.  kept: the study's

    Raises ValueError where other images are given.
    """
    given, name = cli.explicit(settings), kept.get("data.name")
    if "data" in given and name and settings.data.name != name:
        raise ValueError(f"data={settings.data.name}: study={settings.study} was made on data={name}; leave data out")
    changes: dict[str, Any] = {} if "smaller" in given else {"smaller": True}
    if name and "data" not in given:
        changes["data"] = name
    images = {key: value for key, value in kept.items() if key.startswith("data.") and key != "data.name" and value is not None}
    return changes | {f"++{key}": value for key, value in images.items() if key not in given}  # ++: not all are in its yaml


def run(settings: FrontExportSettings) -> int:
    """The command: export, and print the index."""
    index = export_front(settings)
    print(index.markdown)
    print(f"files: {index.folder}")
    return 0


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


if __name__ == "__main__":
    sys.exit(main())
