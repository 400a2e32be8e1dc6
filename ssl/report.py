"""What a person sees of a run: an opening line, a bar, curves, and a page at the end."""
import itertools
import json
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from core import trackers
from core.figures import COLOURS, canvas, drawn
from core.image_size import size_text
from core.loop import TrainConfig
from core.processes import World, gather_objects, is_main
from core.run import ProgressBar, Run, log_line
from core.settings import PretrainSettings
from linear_eval.features import PIXELS, Source, collect, pixels_of
from linear_eval.knn import TEMPERATURE, K
from linear_eval.samples import Sample, at_most
from ssl import budget, collapse, suggest
from ssl.health import UNTRAINED, Health, features
from ssl.outcome import outcome
from vision import artifact, augment
from vision.listing import one_line
from vision.splits import Dataset

TESTED = 10_000  # test images at most
BANK = 60_000  # training images at most that vote on them
FOR_HOG = 20_000  # images, training and test ones, up to which HOG is among the baselines
SHARES = {
    "patch_cosine": "cosine of an image's patches", "patch_spread": "spread of all patches",
    "teacher_entropy": "entropy of targets", "teacher_entropy_of_mean": "entropy of their mean",
    "prototypes_in_use": "prototypes in use", "prediction_spread": "spread of predictions",
}  # fmt: skip
SHOWN = 2_000  # images at most among which a sheet without labels finds neighbors


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
    if not is_main() or health.baselines is None:
        return
    run.write("curves.png", _curves(run.metrics(), health))


@drawn
def _curves(rows: list[dict], health: Health):
    rows = [row for row in rows if "loss" in row]
    shares = _shares(rows, health)
    columns = 4 if shares else 3
    figure, (axes,) = canvas(13 * columns / 3, 3.6, columns=columns)
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
    elif "knn_map" in figures[0]:
        axes[1].plot(seen, [f["knn_map"] for f in figures], "o-", ms=3, color="#0072B2", label=f"kNN, k = {K}")
        axes[1].axhline(health.baselines.pixels["knn_map"], color="#0072B2", ls=":", lw=1, label="… of raw pixels")
        axes[1].legend(fontsize=8)
        axes[1].set(title="validation mean average precision", xlabel="step", ylabel="%")
    else:
        pair = ("alignment", "alignment of two views", "#0072B2"), ("uniformity", "uniformity", "#D55E00")
        _two_scales(axes[1], seen, figures, *pair)
        axes[1].set_title("views and images: lower is better")

    rank = ("rankme", "effective rank (RankMe)", "#009E73")
    for axis in _two_scales(axes[2], seen, figures, rank, ("feature_std", "feature std", "#CC79A7")):
        axis.set_ylim(0, None)
    axes[2].set_title("health")
    for number, (name, (steps, values)) in enumerate(shares.items()):
        axes[3].plot(steps, values, "o-", ms=3, color=COLOURS[number], label=SHARES[name])
    if shares:
        axes[3].set(title="patches and prototypes", xlabel="step", ylabel="share", ylim=(min(0, axes[3].get_ylim()[0]), 1.02))
        axes[3].legend(fontsize=8)
    return figure


def _shares(rows: list[dict], health: Health) -> dict[str, tuple[list[int], list[float]]]:
    """Figure of `collapse.FIGURES` → steps and values, where a run has it."""
    checks = [(0, health.baselines.untrained), *health.history]
    found = {name: [(step, f[name]) for step, f in checks if name in f] for name in collapse.PATCHES}
    found |= {name: [(row["step"], row[name]) for row in rows if name in row] for name in collapse.TEACHER if name in SHARES}
    return {name: tuple(map(list, zip(*pairs, strict=True))) for name, pairs in found.items() if pairs}


def _two_scales(axis, steps: list[int], figures: list[dict], left: tuple, right: tuple, style: str = "o-") -> tuple:
    """Two figures over steps, each given as (key, label, colour), with an axis of its own in its colour.  → both axes"""
    both = axis, axis.twinx()
    for one, (key, label, colour) in zip(both, (left, right), strict=True):
        one.plot(steps, [f[key] for f in figures], style, ms=3, color=colour)
        one.set_ylabel(label, color=colour)
    axis.set_xlabel("step")
    return both


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
    run: Run, health: Health, dataset: Dataset, encoder: nn.Module, settings: PretrainSettings, initial: Callable[[], nn.Module]
) -> dict[str, dict[str, float]]:
    """report.md, and its essence on the terminal.  initial: makes the encoder that training began with, once more.
    Collective.  Returns the test scores by source, on the main process.
    """
    from linear_eval.probe import ITERATIONS

    scores, unread = {}, 0
    if health.bank is not None and len(dataset.test) and dataset.test.labels is not None:
        before = health.calibrated(initial().to(health.device))
        scores, unread = test_scores(health, dataset, encoder, {health.began: before})
    if not is_main():
        return {}
    lines = [f"# {settings.method.name} on {dataset.name}", "", f"Health: {health.verdict()}.", ""]
    lines += [line for sentence in health.closing() for line in (sentence, "")]
    if health.bank is None:
        lines += ["No labels, so no accuracy: the label-free verdict and the sheet of neighbours say what there is to say.", ""]
    else:
        lines += _table("validation", _validation_scores(health))
        if scores:
            run.write("test.json", json.dumps(scores, indent=1) + "\n")
            lines += [*_table("test", scores), outcome(scores, min(TESTED, len(dataset.test)) - unread), ""]
        if unread:
            skipped(run, dataset.skipped)
            lines += [f"{unread} images could not be read and are in no test score; skipped.txt lists them.", ""]
        lines += _about_multilabel(health, settings) if dataset.multilabel else [
            f"Accuracy in %, frozen features. kNN: k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: logistic "
            f"regression on standardised features, at most {ITERATIONS} iterations. 5 labels a class: the same, mean ± std of "
            f"5 draws. On at most {BANK:,} labelled and {TESTED:,} test images; pixels on at most {PIXELS} a side. "
            f"{_beginning(health, settings)}",
            "",
        ]
    path = run.folder / "encoder.safetensors"
    pictures = [f"![{name}]({name}.png)" for name in ("curves", "views")] + _sheet(run, health, dataset, encoder)
    snippet = artifact.snippet(artifact.read_header(path), str(path))
    load = ["```python", "import safetensors.torch, timm, torch", snippet, "```"]
    page = [*lines, *pictures, "", "The encoder, loaded with plain timm:", "", *load, ""]
    run.write("report.md", "\n".join(page))
    ends = [f"encoder: {path}", f"report:  {run.folder / 'report.md'}", f"next:    {suggest.train_on(settings)}"]
    if health.bank is not None:
        ends.append(f"         {suggest.evaluate(settings, path)}")
    elif settings.data.name in suggest.STREAMED:
        ends += [f"         {line}" for line in suggest.gallery(settings, path, dataset.pixels is not None)]
    print("\n".join([*lines, *ends]))
    return scores


def _sheet(run: Run, health: Health, dataset: Dataset, encoder: nn.Module) -> list[str]:
    """neighbours.png where there are no labels, and its lines of report.md."""
    if health.bank is not None:
        return []
    from linear_eval.sheets import ABOUT, neighbor_sheet

    sample = Sample(dataset.pretrain, SHOWN, encoder.spec)
    png = neighbor_sheet(sample, lambda images, _: features(encoder, images, health.recipe, health.device))
    if png is None:
        return []
    run.write("neighbours.png", png)
    return ["", ABOUT.format(count=len(sample)), "", "![neighbours](neighbours.png)"]


def _about_multilabel(health: Health, settings: PretrainSettings) -> list[str]:
    from linear_eval.probe import ITERATIONS

    return [
        f"Mean average precision over classes in %, frozen features; an image may have several labels. kNN: share of the vote "
        f"on each class, k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: each class against the rest, on standardised "
        f"features, at most {ITERATIONS} iterations. On at most {BANK:,} labelled and {TESTED:,} test images; pixels on at "
        f"most {PIXELS} a side. {_beginning(health, settings)}",
        "",
    ]


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
    columns = {"knn": "kNN", "logistic": "logistic", "five_labels": "5 labels a class", "knn_map": "kNN mAP",
               "logistic_map": "logistic mAP"}
    columns = {key: title for key, title in columns.items() if any(key in f for f in scores.values())}
    rows = [f"| {split} | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for name, f in scores.items():
        cells = [f"{f[key]:.1f}" + (f" ± {f[key + '_std']:.1f}" if key + "_std" in f else "") for key in columns]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [*rows, ""]
