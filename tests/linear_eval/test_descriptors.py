"""Classical descriptors are scikit-image's and OpenCV's, block by block."""
import pickle

import cv2
import numpy as np
import pytest
import torch
from skimage import feature
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch.nn import functional as F

from linear_eval import descriptors as descriptors_file
from linear_eval.descriptors import descriptors, gray, hog, lbp, pixels, sift
from vision.datasets import load

DIGITS, SYNTHETIC = load("digits"), load("synthetic")
SAMPLE = SYNTHETIC.train.images[:300]
NAMES = ("raw pixels", "HOG", "LBP", "SIFT words", "PCA")


@pytest.fixture(scope="module")
def fitted_features():
    return descriptors(SAMPLE, seed=0)


def noise(side: int, channels: int = 1, number: int = 6) -> torch.Tensor:
    return torch.randint(256, (number, channels, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(("side", "cell"), [(8, 2), (28, 4), (32, 4), (33, 4), (48, 6), (64, 9)])
def test_hog_is_scikit_images(side, cell):
    images = noise(side)
    images[0] = 7  # flat: no gradient at all
    images[1] = torch.arange(side).to(torch.uint8)  # gradients on the edges of the orientation bins
    images[2] = images[1].transpose(1, 2)
    expected = [feature.hog(image, 9, (cell, cell), (2, 2)) for image in images[:, 0].numpy()]
    np.testing.assert_allclose(hog(images), expected, atol=1e-6)  # ours are float32 of at most 1


@pytest.mark.parametrize(("cell", "orientations", "block"), [(7, 9, 1), (4, 12, 3), (5, 8, 2)])
def test_hog_is_scikit_images_with_other_settings(cell, orientations, block):
    images = noise(28)
    expected = [feature.hog(image, orientations, (cell, cell), (block, block)) for image in images[:, 0].numpy()]
    np.testing.assert_allclose(hog(images, cell, orientations, block), expected, atol=1e-6)


@pytest.mark.parametrize("side", [8, 28, 33])
def test_lbp_is_histograms_of_scikit_images_patterns(side):
    images = noise(side, number=3)
    for row, image in zip(lbp(images).reshape(3, 4, 4, 10), images[:, 0].numpy(), strict=True):
        patterns = feature.local_binary_pattern(image, 8, 1, "uniform")
        edges = [-(-i * side // 4) for i in range(5)]  # pixel p lies in part 4·p // side
        for i in range(4):
            for j in range(4):
                part = patterns[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
                expected = [(part == kind).mean() for kind in range(10)]
                np.testing.assert_allclose(row[i, j], expected, atol=1e-7)


def test_words_are_scikit_learns_nearest_centres_of_opencvs_descriptors(fitted_features):
    words = fitted_features["SIFT words"]
    images = SYNTHETIC.test.images[:5]
    detector = cv2.SIFT_create()
    # 7 × 7 key points in the middles of 8 px of 56; 2 · 1.5 · 4 bins = 6 sizes make 24 px, 12 of 28
    points = [cv2.KeyPoint(8 * x + 4.0, 8 * y + 4.0, 4, 0) for y in range(7) for x in range(7)]
    peer = MiniBatchKMeans(len(words.vocabulary))
    peer.cluster_centers_, peer._n_threads = words.vocabulary, 1
    for image, row in zip(gray(images, 56), words(images), strict=True):
        found = detector.compute(image, points)[1]
        counts = np.bincount(peer.predict(found), minlength=len(words.vocabulary))
        np.testing.assert_allclose(row**2, counts / 49, atol=1e-6)
        assert np.count_nonzero(counts) > 10  # not all one word


def test_sift_looks_at_places_in_the_order_of_reading():
    images = torch.zeros(1, 1, 56, 56, dtype=torch.uint8)
    images[0, 0, :10, -10:] = noise(10)[0, 0]
    strength = sift(images)[0].sum(1).reshape(7, 7)
    assert strength.argmax() == 6
    assert strength[4:].sum() + strength[:, :3].sum() == 0  # patches of 24 px that end, with their blur, before it


def test_principal_components_are_scikit_learns(fitted_features):
    levels, others = pixels(SAMPLE), pixels(SYNTHETIC.test.images[:50])
    expected = PCA(64, svd_solver="full").fit(levels).transform(others)
    ours = fitted_features["PCA"](SYNTHETIC.test.images[:50])
    first = slice(8)  # the randomized solver's last components are approximate; the strong ones are the same up to sign
    np.testing.assert_allclose(abs(ours[:, first]), abs(expected[:, first]), atol=2e-2 * expected.std())


def test_pixels_are_levels_and_large_images_are_averaged():
    small = noise(28, channels=3)
    assert np.array_equal(pixels(small), small.flatten(1).numpy() / np.float32(255))
    large = noise(96)
    expected = F.avg_pool2d(large.double() / 255, 3).flatten(1)
    np.testing.assert_allclose(pixels(large), expected, atol=1e-6)


def test_gray_is_pillows_and_large_images_shrink():
    from PIL import Image

    images = noise(40, channels=3)
    expected = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"), dtype=int) for image in images]
    assert abs(gray(images).astype(int) - expected).max() <= 1  # Pillow truncates, we round
    assert gray(noise(100)).shape == (6, 64, 64)


def test_the_five_features_are_there(fitted_features):
    assert tuple(fitted_features) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_features_depend_on_the_image_alone_and_survive_pickling(name, fitted_features):
    feature, images = fitted_features[name], SYNTHETIC.test.images[:37]
    whole = feature(images)
    assert whole.dtype == np.float32
    assert whole.ndim == 2
    blocks = np.concatenate([feature(block) for block in images.split(5)])
    atol = 1e-6 if name == "PCA" else 0  # float64 products, rounded to float32 once
    np.testing.assert_allclose(blocks, whole, rtol=0, atol=atol)
    assert np.array_equal(pickle.loads(pickle.dumps(feature))(images), whole)
    assert len(np.unique(whole.round(4), axis=0)) == 37  # images differ


def test_a_seed_fits_the_same_vocabulary_and_components_again(monkeypatch):
    monkeypatch.setattr(descriptors_file, "WORDS", 20)
    images = DIGITS.train.images[:60]
    first, again, other = (descriptors(images, seed) for seed in (0, 0, 1))
    assert np.array_equal(first["SIFT words"].vocabulary, again["SIFT words"].vocabulary)
    assert np.array_equal(first["PCA"].components, again["PCA"].components)
    assert not np.array_equal(first["SIFT words"].vocabulary, other["SIFT words"].vocabulary)


@pytest.mark.parametrize(("data", "number"), [(DIGITS, 40), (DIGITS, 3), (SYNTHETIC, 20)])
def test_any_size_and_few_images_will_do(data, number):
    for made in descriptors(data.train.images[:number]).values():
        assert np.isfinite(made(data.test.images[:9])).all()


def test_large_images_are_brought_down_first():
    images = noise(96, channels=3)
    assert hog(images).shape[1] == hog(noise(64)).shape[1]
    assert lbp(images).shape == (6, 160)
    assert sift(images).shape == (6, 49, 128)


def test_a_rectangle_is_described_as_its_square():
    """The comparison at the end of a run describes the encoder's own images."""
    images = torch.randint(0, 256, (3, 1, 24, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    square = F.interpolate(images.float(), (40, 40), mode="bilinear", antialias=True)
    np.testing.assert_array_equal(hog(images), hog(square.round().to(torch.uint8)))
