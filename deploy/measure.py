"""Accuracy, speed and size of every version of an exported model."""
from functools import partial

import torch

from core import cli
from core.errors import RunError
from core.run import log_line
from deploy.accuracy import accuracy
from deploy.compare import reason
from deploy.export_report import VersionRow
from deploy.settings import ExportSettings
from deploy.timing import Timing, interleaved
from deploy.versions import Versions
from vision.splits import Dataset


def measure(settings: ExportSettings, versions: Versions, data: Dataset, batch: int) -> dict[str, VersionRow]:
    """Measure on test images; a version that fails there is refused.  batch: images of the larger batch that is timed

    Raises RunError where torch itself fails.
    """
    log_line("measuring")
    accuracies = {}
    for name, version in list(versions.items()):
        try:
            version.runner(version.module.preprocess(data.test, torch.arange(batch)))
            accuracies[name] = accuracy(version.runner, version.module, data, data.test)
        except Exception as error:
            if name == "torch":
                raise RunError(f"encoder={settings.encoder} cannot be measured on test images: {reason(error)}") from error
            versions.refuse(name, f"failed on test images: {reason(error)}")

    def timings(count: int) -> dict[str, Timing]:
        images = {name: version.module.preprocess(data.test, torch.arange(count)) for name, version in versions.items()}
        return interleaved({name: partial(version.runner, images[name]) for name, version in versions.items()}, count)

    single, batched = timings(1), timings(batch)
    rows = {}
    for name, version in versions.items():
        source = cli.expand(settings.against if version.reference else settings.encoder)
        file = None if version.reference or not version.file else version.file.name
        rows[name] = VersionRow(
            accuracies[name], single[name].p50, single[name].p95, batched[name].images_per_second,
            (version.file or source).stat().st_size / 1e6, file, version.reference,
        )
    return rows
