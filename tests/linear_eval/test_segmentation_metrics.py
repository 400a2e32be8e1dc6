"""Figures of segmentation against scikit-learn, torchmetrics, loops over pixels and counts by hand."""
import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index
from torchmetrics.functional.segmentation import dice_score

from linear_eval.dense.metrics import (
    RESAMPLES,
    boundary_f,
    class_rows,
    count_all,
    figures,
    pixel_counts,
)

C = 5


def pairs(images: int, ignored: float = 0.1, seed: int = 0, classes: int = C) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks of several sizes, with predictions that are often right."""
    rng, found = np.random.default_rng(seed), []
    for image in range(images):
        truth = rng.integers(0, classes, (7 + image % 3, 9)).astype(np.uint8)
        guess = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes, truth.shape)).astype(np.uint8)
        truth[rng.random(truth.shape) < ignored] = 255
        found.append((truth, guess))
    return found


def flat(some) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = (np.concatenate([one.ravel() for one in side]) for side in zip(*some, strict=True))
    return truth[truth != 255], guess[truth != 255]


def test_counts_are_those_of_scikit_learns_confusion_matrix():
    for truth, guess in pairs(6):
        matrix = sk.confusion_matrix(*flat([(truth, guess)]), labels=range(C))
        right = matrix.diagonal()
        expected = np.stack([right, matrix.sum(0) - right, matrix.sum(1) - right], 1)
        counts = pixel_counts(truth, guess, C)
        assert counts.dtype == np.int64
        assert np.array_equal(counts, expected)


def test_global_figures_are_scikit_learns_and_torchmetrics():
    some = pairs(20)
    truth, guess = flat(some)
    found = figures(count_all(some, C))
    assert found.miou.value == pytest.approx(100 * sk.jaccard_score(truth, guess, average="macro"))
    assert found.dice.value == pytest.approx(100 * sk.f1_score(truth, guess, average="macro"))
    assert found.pixel_accuracy.value == pytest.approx(100 * sk.accuracy_score(truth, guess))
    assert found.mean_accuracy.value == pytest.approx(100 * sk.balanced_accuracy_score(truth, guess))
    t, g = torch.from_numpy(truth).long(), torch.from_numpy(guess).long()
    assert found.miou.value == pytest.approx(100 * float(multiclass_jaccard_index(g, t, C)), abs=1e-3)
    assert found.mean_accuracy.value == pytest.approx(100 * float(multiclass_accuracy(g, t, C)), abs=1e-3)
    dice = dice_score(g[None], t[None], C, input_format="index", average="macro")
    assert found.dice.value == pytest.approx(100 * float(dice), abs=1e-3)
    rows = class_rows(count_all(some, C), "abcde")
    iou = sk.jaccard_score(truth, guess, average=None)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, guess)
    for k, row in enumerate(rows):
        expected = 100 * np.array([iou, f1, precision, recall])[:, k]
        assert (row.iou, row.dice, row.precision, row.recall) == pytest.approx(expected)
        assert row.images == sum((one == k).any() for one, _ in some)
        assert row.share == pytest.approx(100 * (truth == k).mean())


def test_figures_of_an_image_average_over_images():
    some = pairs(9, classes=3)
    each = [sk.jaccard_score(*flat([one]), average="macro") for one in some]
    assert figures(count_all(some, C)).image_miou.value == pytest.approx(100 * np.mean(each))


def test_ignored_pixels_count_on_neither_side_and_an_ignoring_prediction_is_a_miss():
    truth = np.array([[0, 0, 255, 255], [1, 1, 1, 255]], np.uint8)
    guess = np.array([[0, 1, 1, 0], [1, 255, 1, 2]], np.uint8)
    assert pixel_counts(truth, guess, 3).tolist() == [[1, 0, 1], [2, 1, 1], [0, 0, 0]]
    found = figures(count_all([(truth, guess)], 3))
    assert found.miou.value == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)  # class 2 is in neither
    assert found.pixel_accuracy.value == pytest.approx(100 * 3 / 5)


def test_a_class_that_nothing_has_has_no_figures_and_one_that_is_only_predicted_has_zero():
    truth, guess = np.zeros((2, 4), np.uint8), np.array([[0, 0, 0, 1]] * 2, np.uint8)
    counts = count_all([(truth, guess)], 3)
    rows = class_rows(counts, ["a", "b", "c"])
    assert [row.iou for row in rows] == [75.0, 0.0, None]
    assert [row.recall for row in rows] == [75.0, None, None]
    assert figures(counts).miou.value == pytest.approx(37.5)
    assert figures(counts).mean_accuracy.value == pytest.approx(75.0)
    assert figures(counts).miou.interval is None  # of one image there is none


def test_images_that_are_all_ignored_are_counted_and_change_nothing():
    some, nothing = pairs(4), (np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))
    counts = count_all([some[0], nothing, *some[1:], nothing], C)
    assert counts.all_ignored.tolist() == [1, 5]
    with_them, without = figures(counts), figures(count_all(some, C))
    assert (with_them.images, with_them.ignored, without.ignored) == (4, 2, 0)
    assert with_them.miou == without.miou
    assert with_them.image_miou == without.image_miou
    with pytest.raises(ValueError, match="none of 1 images has a pixel with a label"):
        figures(count_all([nothing], C))


def test_unequal_sizes_and_labels_beyond_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"a mask of \(2, 3\) pixels and a prediction of \(3, 2\)"):
        pixel_counts(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    for truth, guess, which in ((3, 0, "mask"), (0, 3, "prediction")):
        with pytest.raises(ValueError, match=f"a {which} has the label 3, and there are 2 classes"):
            pixel_counts(np.full((2, 2), truth), np.full((2, 2), guess), 2)


def test_boundary_f_is_that_of_a_loop_over_pixels():
    for width in (0.0, 0.1, 0.25):
        for truth, guess in pairs(5, seed=3, classes=3):
            assert boundary_f(truth, guess, width) == pytest.approx(by_loop(truth, guess, width))


def by_loop(truth: np.ndarray, guess: np.ndarray, width: float) -> float:
    guess = guess.copy()
    guess[truth == 255] = 255
    far, scores = np.ceil(width * (truth.shape[0] ** 2 + truth.shape[1] ** 2) ** 0.5), []

    def boundary(labels: np.ndarray, k: int) -> list[tuple[int, int]]:
        found = []
        for y, x in np.ndindex(*labels.shape):
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [labels[p] for p in beside if 0 <= p[0] < labels.shape[0] and 0 <= p[1] < labels.shape[1]]
            if labels[y, x] == k and any(other not in (k, 255) for other in inside):
                found.append((y, x))
        return found

    def near(some: list, others: list) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= far**2 for v, u in others) for y, x in some]
        return sum(hits) / len(hits) if hits else 0.0

    for k in range(3):
        true, predicted = boundary(truth, k), boundary(guess, k)
        if true or predicted:
            precision, recall = near(predicted, true), near(true, predicted)
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores))


def test_boundary_f_by_hand():
    truth = np.zeros((4, 8), np.uint8)
    truth[:, 4:] = 1
    moved = np.zeros((4, 8), np.uint8)
    moved[:, 6:] = 1  # two pixels to the right; the diagonal is √80
    assert boundary_f(truth, truth) == 1.0
    assert boundary_f(truth, moved, width=0.1) == 0.0  # within one pixel
    assert boundary_f(truth, moved, width=0.2) == 1.0  # within two
    assert boundary_f(truth, np.zeros((4, 8), np.uint8)) == 0.0
    assert np.isnan(boundary_f(np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)))


def test_intervals_hold_the_figure_and_are_those_of_a_loop_over_resamples():
    some = pairs(30)
    counts = count_all(some, C)
    found = figures(counts, seed=7)
    for name in ("miou", "image_miou", "dice", "pixel_accuracy", "mean_accuracy", "boundary_f"):
        figure = getattr(found, name)
        assert figure.interval[0] < figure.value < figure.interval[1]
    weights = np.random.default_rng(7).multinomial(30, np.full(30, 1 / 30), RESAMPLES)
    loop = []
    for chosen in weights:
        drawn = [one for one, times in zip(some, chosen, strict=True) for _ in range(times)]
        loop.append(100 * sk.accuracy_score(*flat(drawn)))
    assert found.pixel_accuracy.interval == pytest.approx(list(np.percentile(loop, [2.5, 97.5])))
    assert figures(counts, seed=7) == found
