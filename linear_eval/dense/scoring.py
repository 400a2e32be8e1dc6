"""DenseInputs → rows: every part on every source, settings chosen on validation masks, test masks used once."""
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from core.run import counting, log_line
from linear_eval.dense.constant import COMMON, constant_counts, most_common_class
from linear_eval.dense.dense_knn import DenseKnn
from linear_eval.dense.dense_linear import DenseLinear
from linear_eval.dense.inputs import DenseInputs, SourceFeatures
from linear_eval.dense.metrics import (
    SegmentationCounts,
    SegmentationFigures,
    boundary_f,
    class_rows,
    figures,
    global_miou,
    pixel_counts,
)
from linear_eval.dense.patch_labels import PatchLabels
from linear_eval.dense.pictures import evenly_shown
from linear_eval.dense.prediction import Predicted, Scores, predict
from linear_eval.dense.results import DenseRow
from linear_eval.dense.samples import Draw, PatchSample, sample_patches
from linear_eval.dense.settings import DenseSettings
from linear_eval.features import evenly
from vision.segmentation import Segmentation

MASKS = 500  # training masks, at most, by which a class is the most common


@dataclass(frozen=True)
class Chosen:
    """A fitted part with the setting that was best on validation.  validation: mIoU there, in %"""

    method: str
    model: DenseKnn | DenseLinear
    sample: PatchSample
    settings: dict
    validation: float
    note: str
    seconds: float


@dataclass(frozen=True)
class ScoredSource:
    """rows: of a source, a part each; shown: some test images with the predictions of these parts"""

    rows: list[DenseRow]
    shown: list[Predicted]


def score_sources(settings: DenseSettings, inputs: DenseInputs) -> Iterator[ScoredSource]:
    """The sources one by one, the encoder first, and last what predicts nothing but the most common class."""
    for source in inputs.sources:
        scored = score_source(settings, inputs, source)
        for row in scored.rows:
            log_line(brief(row) + (f"; {row.note}" if row.note else ""))
        yield scored
    row = constant_row(inputs)
    log_line(brief(row))
    yield ScoredSource([row], [])


def brief(row: DenseRow) -> str:
    """A row in a line, as it is known."""
    miou = row.figures.miou
    interval = f" ({miou.interval[0]:.1f} … {miou.interval[1]:.1f})" if miou.interval else ""
    return f"{row.source}, {row.method}: mIoU {row.miou:.1f} %{interval}"


def score_source(settings: DenseSettings, inputs: DenseInputs, source: SourceFeatures) -> ScoredSource:
    parts = {"dense_knn": choose_knn, "dense_linear": choose_linear}
    chosen = [parts[part](settings, inputs, source) for part in parts if part in settings.parts]
    test, names = inputs.splits["test"], inputs.splits["test"].classes
    began = time.monotonic()

    def scores(x: np.ndarray) -> Iterator[np.ndarray]:
        for one in chosen:
            yield from one.model.scores(x)

    keep = set(evenly_shown(len(test)))
    blocks = source.test_blocks(test.images, inputs.device)
    title = f"{source.name}: test" if source.test is not None else None  # computing has a bar of its own
    counted, shown = count_candidates(scores, blocks, test, inputs.grid, title, keep)
    seconds = (time.monotonic() - began) / len(chosen)
    selected_on = f"{min(len(source.validation), settings.protocol.validation.images):,} validation images"
    rows = [
        DenseRow(
            source.name, one.method, _test_figures(counts, settings.seed), class_rows(counts, names), len(one.sample),
            one.sample.images, one.settings, selected_on, one.validation, one.note, round(one.seconds + seconds, 2),
        )
        for one, counts in zip(chosen, counted, strict=True)
    ]
    return ScoredSource(rows, shown)


def constant_row(inputs: DenseInputs) -> DenseRow:
    """The class that most pixels of the training masks have, everywhere: what a mean over classes makes of no knowledge."""
    train, test = inputs.splits["train"], inputs.splits["test"]
    some = evenly(len(train), MASKS).tolist()
    common = most_common_class(train.masks, some)
    found = constant_counts(test, common)
    return DenseRow(
        COMMON, "constant", _test_figures(found, 0), class_rows(found, test.classes), 0, len(some),
        {"class": test.classes[common]}, "nothing: fixed", None, f"by the pixels of {len(some):,} training masks", 0.0,
    )


# ------------------------------------------------------------------------------------------------------------------- parts


def choose_knn(settings: DenseSettings, inputs: DenseInputs, source: SourceFeatures) -> Chosen:
    began, protocol = time.monotonic(), settings.protocol.knn
    bank = _sample(inputs, source, "train", Draw(protocol.bank, settings.seed, True, f"{source.name}: bank"))
    model = DenseKnn.of(bank, protocol.k, protocol.temperature)
    best, miou = best_on_validation(model.scores, settings, inputs, source)
    k, T = model.settings[best]
    return Chosen("dense_knn", model.only(best), bank, {"k": k, "T": T}, miou, bank.note, time.monotonic() - began)


def choose_linear(settings: DenseSettings, inputs: DenseInputs, source: SourceFeatures) -> Chosen:
    """C is chosen on validation; then the layer is fitted again on patches of training and validation images."""
    began, protocol = time.monotonic(), settings.protocol.linear
    train = _sample(inputs, source, "train", Draw(protocol.patches, settings.seed, False, f"{source.name}: patches"))
    model = DenseLinear.fit(train, sorted(protocol.C), protocol.iterations, inputs.device)
    best, miou = best_on_validation(model.scores, settings, inputs, source)
    C = sorted(protocol.C)[best]
    count = max(1, round(protocol.patches * len(source.validation) / len(source.train)))  # as many an image
    more = _sample(inputs, source, "validation", Draw(count, settings.seed, False, f"{source.name}: patches of validation"))
    both = _joined(train, more)
    final = DenseLinear.fit(both, [C], protocol.iterations, inputs.device)
    note = "; ".join(filter(None, (train.note, model.note)))
    return Chosen("dense_linear", final, both, {"C": C}, miou, note, time.monotonic() - began)


def _sample(inputs: DenseInputs, source: SourceFeatures, split: str, draw: Draw) -> PatchSample:
    part = inputs.splits[split]
    features = source.train if split == "train" else source.validation
    return sample_patches(features, part.masks, len(part.classes), inputs.grid, draw)


def _joined(one: PatchSample, other: PatchSample) -> PatchSample:
    shares = np.concatenate([one.labels.shares, other.labels.shares])
    x = np.concatenate([one.x, other.x])
    return replace(one, x=x, labels=PatchLabels(shares), images=one.images + other.images, wanted=one.wanted + other.wanted)


# ---------------------------------------------------------------------------------------------------------------- counting


def best_on_validation(
    scores: Scores, settings: DenseSettings, inputs: DenseInputs, source: SourceFeatures
) -> tuple[int, float]:
    """The candidate with the highest mIoU on validation images (the first of equals), and that mIoU."""
    some = evenly(len(source.validation), settings.protocol.validation.images).numpy()
    features = replace(source.validation, rows=source.validation.rows[some], indices=source.validation.indices[some])
    blocks = features.blocks(source.block)
    counted, _ = count_candidates(scores, blocks, inputs.splits["validation"], inputs.grid, f"{source.name}: validation")
    try:
        found = [global_miou(counts) for counts in counted]
    except ValueError as error:
        raise ValueError(f"validation masks: {error}") from error
    return int(np.argmax(found)), float(np.max(found))


def _test_figures(counts: SegmentationCounts, seed: int) -> SegmentationFigures:
    try:
        return figures(counts, seed)
    except ValueError as error:
        raise ValueError(f"test masks: {error}") from error


def count_candidates(
    scores: Scores, blocks: Iterable[tuple[np.ndarray, np.ndarray]], split: Segmentation, grid: tuple[int, int],
    title: str | None, keep: set[int] | None = None,
) -> tuple[list[SegmentationCounts], list[Predicted]]:
    """Of each candidate the images' counts, of boundaries only with `keep`; and the predictions of images in `keep`.

    title: of the bar; None: without one
    """
    pixels, boundaries, shown, classes = [], [], [], len(split.classes)
    with counting(title or "") as progress:
        for done, image in enumerate(predict(scores, blocks, split.masks, grid), 1):
            pixels.append([pixel_counts(image.truth, one, classes) for one in image.candidates])
            boundaries.append([np.nan if keep is None else boundary_f(image.truth, one) for one in image.candidates])
            if image.index in (keep or ()):
                shown.append(replace(image, patches=image.patches.copy()))  # a view would keep its whole block
            if title:
                progress(done, len(split))
    columns = zip(zip(*pixels, strict=True), zip(*boundaries, strict=True), strict=True)
    return [SegmentationCounts(np.array(p), np.array(b)) for p, b in columns], shown
