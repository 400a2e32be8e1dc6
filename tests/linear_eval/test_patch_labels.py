"""Soft patch labels against torch's own area average and hand-counted cases; which patches a bank takes."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from linear_eval.dense.dense_knn import DenseKnn
from linear_eval.dense.patch_features import PatchFeatures
from linear_eval.dense.patch_labels import PatchLabels, draw_patches, patch_labels
from linear_eval.dense.prediction import predict, upsampled
from linear_eval.dense.samples import Draw, PatchSample, sample_patches


def random_mask(height: int, width: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint8)


def test_shares_are_torchs_average_of_the_classes_planes():
    mask = random_mask(24, 36, 5)
    planes = F.one_hot(torch.from_numpy(mask).long(), 5).permute(2, 0, 1).double()
    expected = F.adaptive_avg_pool2d(planes, (4, 6)).flatten(1).T
    np.testing.assert_allclose(patch_labels(mask, (4, 6), 5).shares, expected, atol=1e-6)


def test_a_pixel_between_two_patches_counts_in_both_by_its_area():
    mask = np.array([[0, 1, 2]], np.uint8).repeat(2, 0)  # 3 columns, 2 patches: 1.5 pixels each
    expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]] * 2
    np.testing.assert_allclose(patch_labels(mask, (2, 2), 3).shares, expected, atol=1e-6)


def test_ignored_pixels_are_no_class():
    mask = np.array([[0, 0, 255, 255], [1, 255, 255, 255]], np.uint8)
    labels = patch_labels(mask, (1, 2), 2)
    np.testing.assert_allclose(labels.shares, [[2 / 3, 1 / 3], [0, 0]], atol=1e-6)
    assert labels.known.tolist() == [True, False]
    assert labels.majority.tolist() == [0, -1]


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"label 7; there are 3 classes, 0 to 2"):
        patch_labels(np.full((4, 4), 7, np.uint8), (2, 2), 3)


def test_rare_classes_come_first():
    """One patch of 64 has a class that no other has: its score is below 1, the others' average is above 30."""
    shares = np.zeros((64, 2), np.float32)
    shares[:, 0], shares[17] = 1, (0, 1)
    drawn = [draw_patches(PatchLabels(shares), 3, 0, image, rare_first=True) for image in range(200)]
    assert sum(17 in d for d in drawn) > 180
    plain = [draw_patches(PatchLabels(shares), 3, 0, image) for image in range(200)]
    assert sum(17 in d for d in plain) < 40  # 3 of 64
    assert all(len(d) == 3 and (np.diff(d) > 0).all() for d in drawn)


def test_a_draw_is_a_function_of_seed_and_image_and_never_takes_an_ignored_patch():
    labels = patch_labels(random_mask(32, 32, 3), (8, 8), 3)
    labels.shares[::2] = 0
    one, same, other = (draw_patches(labels, 9, seed, 5, True).tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert all(p % 2 for p in one)
    assert draw_patches(labels, 500, 0, 0).tolist() == list(range(1, 64, 2))


def features_of(count: int, patches: int, dim: int, seed: int = 0) -> PatchFeatures:
    x = np.random.default_rng(seed).standard_normal((count, patches, dim)).astype(np.float16)
    return PatchFeatures(x, np.arange(count), np.arange(count))


def test_a_sample_has_the_stated_size_and_its_patches_own_labels():
    masks = [random_mask(16, 16, 3, i) for i in range(7)]
    features = features_of(7, 16, 5)
    sample = sample_patches(features, masks, 3, (4, 4), Draw(30, 0, True, "bank"))
    assert len(sample) == 30
    assert sample.images == 7
    assert sample.note == ""
    labels = np.concatenate([patch_labels(mask, (4, 4), 3).shares for mask in masks])
    flat = features.x.reshape(-1, 5)
    for x, shares in zip(sample.x, sample.labels.shares, strict=True):
        (at,) = np.flatnonzero((flat == x).all(1))
        np.testing.assert_array_equal(labels[at], shares)
    few = sample_patches(features, masks, 3, (4, 4), Draw(3, 0, True, "bank"))
    assert len(few) == few.images == 3


def test_more_patches_than_there_are_is_named_and_nothing_but_ignored_pixels_refused():
    masks = [random_mask(16, 16, 3, i) for i in range(2)]
    sample = sample_patches(features_of(2, 16, 5), masks, 3, (4, 4), Draw(1_000, 0, True, "bank"))
    assert len(sample) == 32
    assert "32 patches, where 1,000 were asked for" in sample.note
    with pytest.raises(ValueError, match="no mask has a pixel with a label"):
        sample_patches(features_of(2, 16, 5), [np.full((16, 16), 255, np.uint8)] * 2, 3, (4, 4), Draw(9, 0, True, "bank"))


def test_retrieval_is_a_brute_force_loop_in_float64():
    rng = np.random.default_rng(3)
    bank = rng.standard_normal((90, 6)).astype(np.float16)
    shares = rng.dirichlet(np.ones(4), 90).astype(np.float32)
    queries = rng.standard_normal((20, 6)).astype(np.float16)
    model = DenseKnn.of(PatchSample(bank, PatchLabels(shares), 3, 90), [5, 30], [0.02, 0.1])
    found = list(model.scores(queries))
    assert model.settings == ((5, 0.02), (5, 0.1), (30, 0.02), (30, 0.1))
    for (k, T), scores in zip(model.settings, found, strict=True):
        for query, row in zip(queries.astype(float), scores, strict=True):
            cosines = [float(query @ b) / np.linalg.norm(query) / np.linalg.norm(b) for b in bank.astype(float)]
            nearest = sorted(range(90), key=lambda i: -cosines[i])[:k]
            total = sum(np.exp(cosines[i] / T) for i in nearest)
            expected = sum(np.exp(cosines[i] / T) / total * shares[i].astype(float) for i in nearest)
            np.testing.assert_allclose(row, expected, atol=1e-4)  # float32 cosines over T = 0.02
    (alone,) = model.only(2).scores(queries)
    np.testing.assert_array_equal(alone, found[2])
    assert DenseKnn.of(model.bank, [200, 300], [0.1]).settings == ((90, 0.1),)


def test_scores_are_interpolated_and_labels_keep_their_size():
    """Of two patches beside each other, the border moves with the scores: at the place where a line between them is 0."""
    scores = np.array([[0.0, 3.0], [0.0, -1.0]])  # the difference falls from 3 to −1 between columns 1.5 and 5.5
    predicted = upsampled(scores, (1, 2), (3, 8))
    assert predicted.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]] * 3
    x = np.zeros((2, 4, 1), np.float16)
    masks = [np.zeros((5, 9), np.uint8), np.zeros((7, 3), np.uint8)]
    blocks = [(np.array([0, 1]), x)]
    shapes = [(p.index, p.candidates[0].shape) for p in predict(lambda rows: [np.zeros((len(rows), 2))], blocks, masks, (2, 2))]
    assert shapes == [(0, (5, 9)), (1, (7, 3))]
