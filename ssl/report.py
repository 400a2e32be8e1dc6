"""What a person sees of a run: an opening line, a bar, curves, and a report at the end."""
import itertools
import json
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from core import trackers
from core.image_size import size_text
from core.loop import TrainConfig
from core.measured import Configured
from core.page import write_report
from core.processes import World, gather_objects, is_main
from core.run import ProgressBar, Run, log_line
from core.settings import PretrainSettings
from linear_eval.features import Source, collect, pixels_of
from linear_eval.samples import at_most
from ssl import budget, report_page
from ssl.curves import picture
from ssl.health import UNTRAINED, Health, features
from ssl.report_page import BANK, TESTED
from vision import augment
from vision.listing import one_line
from vision.splits import Dataset

FOR_HOG = 20_000  # images, training and test ones, up to which HOG is among the baselines


def opening(
    settings: PretrainSettings, dataset: Dataset, encoder, config: TrainConfig, run: Run, world: World, notes: list[str]
) -> None:
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    size = size_text(encoder.spec.image_size)
    where = f"{world.size} × {world.device.type}" if world.size > 1 else world.device.type
    log_line(
        f"{settings.method.name} on {len(dataset.pretrain):,} images of {dataset.name} at {size} px: "
        f"{encoder.spec.name} ({parameters:.2f} M parameters, {encoder.dim} features), {config.steps} steps of "
        f"{config.batch_size} images, {'bf16' if config.precision else 'fp32'} on {where} → {run.folder}"
    )
    for note in notes:
        log_line(f"note: {note}")
    if dataset.skipped:
        log_line(f"note: {run.folder}/skipped.txt lists what is left out, with reasons")
    if 0 < run.step < config.steps:
        log_line(f"going on from step {run.step}")
    elif run.step >= config.steps:
        log_line("this run is finished; its report is made again. For another run change a setting, or give another out")


def listen(run: Run, config: TrainConfig, settings: PretrainSettings, listeners) -> None:
    """Attach bar, TensorBoard and whoever else listens."""
    if not is_main() or run.step >= config.steps:
        return
    run.listeners += [*listeners, budget.Estimate(config.steps, settings.image_size, settings.budget)]
    if not settings.report:
        return
    run.listeners += [*trackers.listeners(settings.trackers, run), ProgressBar(config.steps, run.step, settings.method.name)]


def views(run: Run, settings: PretrainSettings, recipe: augment.Augmentation, dataset: Dataset) -> None:
    """views.png: what the method sees."""
    if is_main() and settings.report:
        indices = torch.arange(min(8, len(dataset.pretrain)))
        run.write("views.png", augment.picture(dataset.pretrain.resized(indices, recipe.size), recipe, settings.seed))


def skipped(run: Run, files: dict[str, str]) -> None:
    """skipped.txt: a file a line, a tab, why it was left out. Control characters in either are escapes."""
    if files:
        run.write("skipped.txt", "".join(f"{one_line(path)}\t{one_line(why)}\n" for path, why in sorted(files.items())))


def curves(run: Run, health: Health) -> None:
    """curves.png: loss and learning rate, accuracy beside its baselines, and the label-free figures."""
    if is_main() and health.baselines is not None:
        run.write("curves.png", picture(run.metrics(), health))


def test_scores(
    health: Health, dataset: Dataset, encoder: nn.Module, before: dict[str, nn.Module]
) -> tuple[dict[str, dict[str, float]], int]:
    """Accuracy on the test split of the encoder and its baselines by `frozen_scores`. Nothing was chosen on it.

    → scores by source, none on other processes than the main one; and how many images could not be read: they are in no
    score. Images are read once, in blocks; features of all are held.  Collective.
    """
    from linear_eval.descriptors import hog
    from linear_eval.probe import frozen_multilabel_scores, frozen_scores

    describe = {"raw pixels": pixels_of}
    if len(dataset.train) + len(dataset.test) <= FOR_HOG:
        describe["HOG"] = lambda images: torch.from_numpy(hog(images))
    if health.began != UNTRAINED:
        before[UNTRAINED] = health.untrained(encoder.spec)
    for name, network in {**before, "pretrained": encoder}.items():
        describe[name] = partial(features, network, recipe=health.recipe, device=health.device)
    spec = encoder.spec
    blank = torch.zeros(1, *spec.shape, dtype=torch.float32 if dataset.pixels else torch.uint8)
    widths = [rows(blank).shape[1] for rows in describe.values()]
    ends = list(itertools.accumulate(widths))
    columns = {name: [slice(end - width, end)] for name, width, end in zip(describe, widths, ends, strict=True)}
    source = Source(
        "scores", "", lambda images: torch.cat([rows(images).cpu() for rows in describe.values()], dim=1), spec.geometry,
        spec.channels, dtype="float32", parts=columns,
    )
    splits = {"train": at_most(dataset.train, BANK), "test": at_most(dataset.test, TESTED)}
    found = [collect(source, split, health.device, title=f"features: {name}") for name, split in splits.items()]
    for files in gather_objects([getattr(split, "skipped", {}) for split in splits.values()]):
        for unreadable in files:
            dataset.skipped.update(unreadable)
    if not is_main():
        return {}, 0
    unread = sum(len(split) for split in splits.values()) - sum(len(f.x) for f in found)
    scores = {}
    for name, (rows,) in columns.items():
        bank, test = ((torch.from_numpy(f.x[:, rows].copy()), torch.from_numpy(f.labels)) for f in found)
        several = dataset.multilabel
        scores[name] = frozen_multilabel_scores(*bank, *test) if several else frozen_scores(*bank, *test, len(dataset.classes))
    return scores, unread


def final(
    run: Run, health: Health, dataset: Dataset, encoder: nn.Module, configured: Configured, initial: Callable[[], nn.Module]
) -> dict[str, dict[str, float]]:
    """report.md and report.html, and their essence on the terminal.  initial: makes the encoder that training began with.

    Collective.  Returns the test scores by source, on the main process.
    """
    scores, unread = {}, 0
    before = health.calibrated(initial().to(health.device))
    if health.bank is not None and len(dataset.test) and dataset.test.labels is not None:
        scores, unread = test_scores(health, dataset, encoder, {health.began: before})
    if not is_main():
        return {}
    if scores:
        run.write("test.json", json.dumps(scores, indent=1) + "\n")
    if unread:
        skipped(run, dataset.skipped)
    found = report_page.Pretrained(run, configured, health, dataset, encoder, before, scores, unread)
    page = write_report(run.write, lambda: report_page.page(found))
    print(page.text([report_page.SCORES]) if page else f"Health: {health.verdict()}.")
    path = run.folder / "encoder.safetensors"
    ends = [f"encoder: {path}", *([f"report:  {run.folder / 'report.html'}"] if page else [])]
    first, *others = report_page.commands(found)
    print("\n".join([*ends, f"next:    {first}", *(f"         {line}" for line in others)]))
    return scores
