"""What a person sees of a run: an opening line, a bar, curves, and a page at the end."""
import itertools
import json
from collections.abc import Callable

import torch
from torch import nn

from core import trackers
from core.figures import canvas, drawn
from core.loop import TrainConfig
from core.processes import World, gather_objects, is_main
from core.run import ProgressBar, Run, log_line
from core.settings import PretrainSettings
from linear_eval.features import PIXELS, Source, collect, pixels_of
from linear_eval.knn import TEMPERATURE, K
from linear_eval.probe import ITERATIONS, frozen_scores
from linear_eval.samples import at_most
from ssl import suggest
from ssl.health import UNTRAINED, Health, features
from vision import artifact, augment
from vision.listing import one_line
from vision.splits import Dataset

TESTED = 10_000  # test images at most
BANK = 60_000  # training images at most that vote on them


def opening(
    settings: PretrainSettings, dataset: Dataset, encoder, config: TrainConfig, run: Run, world: World, notes: list[str]
) -> None:
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    size = encoder.spec.image_size
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


def listen(
    run: Run, config: TrainConfig, settings: PretrainSettings, recipe: augment.Augmentation, dataset: Dataset, listeners
) -> None:
    """Attach bar, TensorBoard and whoever else listens; leave a picture of what the method will see."""
    if not is_main() or run.step >= config.steps:
        return
    run.listeners += [*listeners]
    if not settings.report:
        return
    run.listeners += [*trackers.listeners(settings.trackers, run), ProgressBar(config.steps, run.step, settings.method.name)]
    if run.step == 0:
        indices = torch.arange(min(8, len(dataset.pretrain)))
        run.write("views.png", augment.picture(dataset.pretrain.resized(indices, recipe.size), recipe, settings.seed))


def skipped(run: Run, files: dict[str, str]) -> None:
    """skipped.txt: a file a line, a tab, why it was left out. Control characters in either are escapes."""
    if files:
        run.write("skipped.txt", "".join(f"{one_line(path)}\t{one_line(why)}\n" for path, why in sorted(files.items())))


def curves(run: Run, health: Health) -> None:
    """curves.png: loss and learning rate, accuracy beside its baselines, and the label-free figures."""
    if not is_main() or health.baselines is None:
        return
    run.write("curves.png", _curves(run.metrics(), health))


@drawn
def _curves(rows: list[dict], health: Health):
    figure, (axes,) = canvas(13, 3.6, columns=3)
    rows = [row for row in rows if "loss" in row]
    _two_scales(axes[0], [r["step"] for r in rows], rows, ("loss", "loss", "#0072B2"), ("lr", "learning rate", "#777777"), "-")
    axes[0].set_title("loss")

    seen = [0] + [s for s, _ in health.history]
    figures = [health.baselines.untrained] + [f for _, f in health.history]
    if "knn" in figures[0]:
        for name, label, colour in (("knn", f"kNN, k = {K}", "#0072B2"), ("five_labels", "5 labels a class", "#D55E00")):
            axes[1].plot(seen, [f[name] for f in figures], "o-", ms=3, color=colour, label=label)
            axes[1].axhline(health.baselines.pixels[name], color=colour, ls=":", lw=1, label="… of raw pixels")
        if "old_knn" in figures[0]:
            axes[1].plot(seen, [f["old_knn"] for f in figures], "s--", ms=3, color="#009E73", label="kNN, old domain")
        axes[1].legend(fontsize=8)
        axes[1].set(title="validation accuracy", xlabel="step", ylabel="%")
    else:
        pair = ("alignment", "alignment of two views", "#0072B2"), ("uniformity", "uniformity", "#D55E00")
        _two_scales(axes[1], seen, figures, *pair)
        axes[1].set_title("views and images: lower is better")

    rank = ("rankme", "effective rank (RankMe)", "#009E73")
    for axis in _two_scales(axes[2], seen, figures, rank, ("feature_std", "feature std", "#CC79A7")):
        axis.set_ylim(0, None)
    axes[2].set_title("health")
    return figure


def _two_scales(axis, steps: list[int], figures: list[dict], left: tuple, right: tuple, style: str = "o-") -> tuple:
    """Two figures over steps, each given as (key, label, colour), with an axis of its own in its colour.  → both axes"""
    both = axis, axis.twinx()
    for one, (key, label, colour) in zip(both, (left, right), strict=True):
        one.plot(steps, [f[key] for f in figures], style, ms=3, color=colour)
        one.set_ylabel(label, color=colour)
    axis.set_xlabel("step")
    return both


def test_scores(
    health: Health, dataset: Dataset, encoder: nn.Module, before: nn.Module
) -> tuple[dict[str, dict[str, float]], int]:
    """Accuracy on the test split of the encoder and its baselines by `frozen_scores`. Nothing was chosen on it.

    → scores by source, none on other processes than the main one; and how many images could not be read: they are in no
    score. Images are read once, in blocks; features of all are held.  Collective.
    """
    describe = {
        "raw pixels": pixels_of,
        health.began: lambda images: features(before, images, health.recipe, health.device),
        "pretrained": lambda images: features(encoder, images, health.recipe, health.device),
    }
    size, channels = encoder.spec.image_size, encoder.spec.channels
    widths = [pixels_of(torch.zeros(1, channels, size, size)).shape[1], encoder.dim, encoder.dim]
    ends = list(itertools.accumulate(widths))
    columns = {name: [slice(end - width, end)] for name, width, end in zip(describe, widths, ends, strict=True)}
    source = Source(
        "scores", "", lambda images: torch.cat([rows(images).cpu() for rows in describe.values()], dim=1), size, channels,
        dtype="float32", parts=columns,
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
        scores[name] = frozen_scores(*bank, *test, len(dataset.classes))
    return scores, unread


def final(
    run: Run, health: Health, dataset: Dataset, encoder: nn.Module, settings: PretrainSettings, initial: Callable[[], nn.Module]
) -> dict[str, dict[str, float]]:
    """report.md, and its essence on the terminal.  initial: makes the encoder that training began with, once more.
    Collective.  Returns the test scores by source, on the main process.
    """
    scores, unread = {}, 0
    if health.bank is not None and len(dataset.test) and dataset.test.labels is not None:
        before = health.calibrated(initial().to(health.device))
        scores, unread = test_scores(health, dataset, encoder, before)
    if not is_main():
        return {}
    lines = [f"# {settings.method.name} on {dataset.name}", "", f"Health: {health.verdict()}.", ""]
    lines += [line for sentence in health.closing() for line in (sentence, "")]
    if health.bank is None:
        lines += ["No labels, so no accuracy: the label-free verdict is all there is to say here.", ""]
    else:
        lines += _table("validation", _validation_scores(health))
        if scores:
            run.write("test.json", json.dumps(scores, indent=1) + "\n")
            lines += _table("test", scores) + _baselines_ahead(scores)
        if unread:
            skipped(run, dataset.skipped)
            lines += [f"{unread} images could not be read and are in no test score; skipped.txt lists them.", ""]
        lines += [
            f"Accuracy in %, frozen features. kNN: k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: logistic "
            f"regression on standardised features, at most {ITERATIONS} iterations. 5 labels a class: the same, mean ± std of "
            f"5 draws. On at most {BANK:,} labelled and {TESTED:,} test images; pixels on at most {PIXELS} a side. "
            f"{_beginning(health, settings)}",
            "",
        ]
    path = run.folder / "encoder.safetensors"
    pictures = [f"![{name}]({name}.png)" for name in ("curves", "views")]
    snippet = artifact.snippet(artifact.read_header(path), str(path))
    load = ["```python", "import safetensors.torch, timm, torch", snippet, "```"]
    page = [*lines, *pictures, "", "The encoder, loaded with plain timm:", "", *load, ""]
    run.write("report.md", "\n".join(page))
    ends = [f"encoder: {path}", f"report:  {run.folder / 'report.md'}", f"next:    {suggest.train_on(settings)}"]
    if health.bank is not None:
        ends.append(f"         {suggest.evaluate(settings, path)}")
    print("\n".join([*lines, *ends]))
    return scores


def _validation_scores(health: Health) -> dict[str, dict[str, float]]:
    return {
        "raw pixels": health.baselines.pixels,
        health.began: health.baselines.untrained,
        "pretrained": health.latest,
    }


def _beginning(health: Health, settings: PretrainSettings) -> str:
    """What the row of the encoder at step 0 is."""
    began = health.began
    if began == UNTRAINED:
        return "untrained: the same architecture with the random weights that training began with."
    source = settings.encoder if settings.encoder.endswith(".safetensors") else f"timm's {settings.encoder}"
    source = f"{settings.weights} ({settings.encoder})" if settings.weights else source
    statistics = "this data's" if health.recalibrates else "those weights' own"
    return f"{began}: the weights that training began with, of {source}; BatchNorm's statistics are {statistics}."


def _table(split: str, scores: dict[str, dict[str, float]]) -> list[str]:
    scores = {name: f for name, f in scores.items() if f}
    columns = {"knn": "kNN", "logistic": "logistic", "five_labels": "5 labels a class"}
    columns = {key: title for key, title in columns.items() if any(key in f for f in scores.values())}
    rows = [f"| {split} | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for name, f in scores.items():
        cells = [f"{f[key]:.1f}" + (f" ± {f[key + '_std']:.1f}" if key + "_std" in f else "") for key in columns]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [*rows, ""]


def _baselines_ahead(scores: dict[str, dict[str, float]]) -> list[str]:
    """Which baselines beat the pretrained encoder, and in which score."""
    ours = scores["pretrained"]
    behind = [
        f"{name} in {label}"
        for name in scores
        for key, label in (("knn", "kNN"), ("logistic", "logistic regression"), ("five_labels", "5-label accuracy"))
        if scores[name][key] > ours[key]
    ]
    return [f"Still ahead of the pretrained encoder: {', '.join(behind)}.", ""] if behind else []
