"""The sentence that says whether pretraining paid."""
import numpy as np
import pytest

from ssl.outcome import noise, outcome

BEATEN = {"raw pixels": {"knn": 40.0, "logistic": 42.0}, "HOG": {"knn": 45.0, "logistic": 50.0}}


def test_paid_where_every_difference_is_beyond_the_noise():
    said = outcome(BEATEN | {"pretrained": {"knn": 60.0, "logistic": 65.0}}, 1000)
    assert said.startswith(
        "Pretraining paid: kNN 60.0 against at most 45.0 and logistic regression 65.0 against at most 50.0, "
        "by raw pixels, HOG;")


def test_one_baseline_ahead_in_one_score_is_enough_not_to_pay():
    said = outcome(BEATEN | {"pretrained": {"knn": 60.0, "logistic": 49.0}}, 1000)
    assert said.startswith("Pretraining did not pay: ahead of the encoder are HOG by logistic regression (50.0, it 49.0).")
    assert "--pretrained" in said


def test_few_test_images_cannot_show_it():
    said = outcome(BEATEN | {"pretrained": {"knn": 50.0, "logistic": 55.0}}, 100)
    assert "beyond the noise of 100 test images" in said
    assert not said.startswith("Pretraining paid")


def test_published_weights_that_were_better_are_to_be_used_as_they_came():
    scores = {"before training": {"knn": 64.0, "logistic": 69.0}, "pretrained": {"knn": 60.0, "logistic": 65.0}}
    assert "Use the weights as they came" in outcome(scores, 1000)


@pytest.mark.parametrize(("first", "second", "images"), [(60, 50, 200), (95, 90, 1000)])
def test_noise_is_that_of_drawn_accuracies(first, second, images):
    """4 % is four deviations of the quantile's estimate from 200,000 draws, and the normal approximation's error."""
    rng = np.random.default_rng(0)
    drawn = [rng.binomial(images, share / 100, 200_000) / images for share in (first, second)]
    difference = 100 * (drawn[0] - drawn[1])
    assert noise(first, second, images) == pytest.approx(np.quantile(abs(difference - (first - second)), 0.95), rel=0.04)


def test_mean_average_precision_is_compared_without_a_claim_on_its_noise():
    scores = {"HOG": {"knn_map": 40.0, "logistic_map": 42.0}, "pretrained": {"knn_map": 41.0, "logistic_map": 43.0}}
    assert outcome(scores, 100) == ("Pretraining paid: kNN mAP 41.0 against at most 40.0 and mAP of logistic regression 43.0 "
                                    "against at most 42.0, by HOG; the noise of mean average precision is not known here.")
    scores["HOG"]["knn_map"] = 42.0
    assert outcome(scores, 100).startswith("Pretraining did not pay: ahead of the encoder are HOG by kNN mAP (42.0, it 41.0).")


def test_a_run_that_kept_its_start_is_not_said_to_have_helped():
    same = {"knn": 60.0, "logistic": 65.0}
    said = outcome(BEATEN | {"before training": same, "untrained": {"knn": 30.0, "logistic": 31.0}, "pretrained": same}, 1000)
    assert said.startswith("Going on did not pay: the encoder has the weights that training began with; they are ahead of raw "
                           "pixels, HOG, untrained.")
    said = outcome({"HOG": {"knn": 61.0, "logistic": 50.0}, "before training": same, "pretrained": same}, 1000)
    assert "ahead of them are HOG by kNN (61.0, it 60.0)" in said
