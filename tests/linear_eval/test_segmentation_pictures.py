"""Pictures of segmentation: colors where they belong, and principal components against scikit-learn's."""
import io

import numpy as np
from PIL import Image
from scipy.stats import skew
from sklearn.decomposition import PCA

from linear_eval.dense import pictures
from linear_eval.dense.pictures import REACH, SegmentedImage, colored, errors, pca_maps
from vision.segmentation import palette


def test_labels_have_their_class_s_color_and_ignored_pixels_are_gray():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    assert colored(labels, palette(3)).tolist() == [[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [160, 160, 160]]]
    found = errors(labels, np.array([[0, 0], [2, 1]], np.uint8))
    assert found.tolist() == [[[255, 255, 255], [213, 94, 0]], [[255, 255, 255], [160, 160, 160]]]


def test_principal_components_are_scikit_learns_with_skewness_of_one_sign():
    patches = np.random.default_rng(0).gamma(1.0, size=(4, 5, 6, 16)) * np.linspace(3, 0.1, 16)
    expected = PCA(3, svd_solver="full").fit_transform(patches.reshape(-1, 16))
    expected *= np.where(skew(expected) < 0, -1, 1)
    expected = np.clip(expected / expected[:, 0].std() / REACH, -1, 1) / 2 + 0.5
    np.testing.assert_allclose(pca_maps(patches).reshape(-1, 3), expected, atol=1e-9)
    assert np.array_equal(pca_maps(-patches), pca_maps(patches))  # the encoder's sign, which is arbitrary, changes nothing


def test_components_that_are_not_there_leave_a_middle_color():
    assert (pca_maps(np.ones((1, 2, 2, 4))) == 0.5).all()
    assert pca_maps(np.random.default_rng(0).random((1, 2, 2, 1)))[..., 1:].tolist() == [[[[0.5, 0.5]] * 2] * 2]


def test_sheets_are_drawn_of_gray_and_color_images_of_several_sizes():
    rng = np.random.default_rng(0)
    images = [SegmentedImage(rng.integers(0, 255, (channels, 8, 8), np.uint8), *(rng.integers(0, 3, (2, *size), np.uint8)))
              for channels, size in ((1, (8, 8)), (3, (9, 12)), (3, (20, 10)))]
    picture = Image.open(io.BytesIO(pictures.segmentation_sheet(images, ["a", "b", "c"], palette(3))))
    assert picture.width > 800
    seen = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
    assert {(0, 0, 0), (128, 0, 0), (0, 128, 0), (213, 94, 0)} <= seen
    assert Image.open(io.BytesIO(pictures.pca_sheet(np.stack([images[1].image] * 2), rng.random((2, 4, 4, 8))))).width > 300


def test_few_images_are_shown_once():
    assert pictures.evenly_shown(3) == [0, 1, 2]
    assert len(pictures.evenly_shown(100)) == pictures.SHOWN
