"""Measures of cached features are what brute force, scikit-learn and hand-counted cases give; test labels choose nothing."""
import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from scipy.spatial.distance import cdist
from sklearn import metrics
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from linear_eval.bootstrap import resamples
from linear_eval.measures.clustering import ClusteringConfig, clustering, matching
from linear_eval.measures.detection import detection
from linear_eval.measures.few_shot import FewShotConfig, draw_episode, few_shot
from linear_eval.measures.leakage import LeakageConfig, Positions, exact_copies, leakage
from linear_eval.measures.open_set import OpenSetConfig, Trial, detectors, held_out, open_set
from linear_eval.measures.quality import QualityConfig, intrinsic_dimension, learnability, lidar, power_law, quality
from linear_eval.measures.retrieval import RetrievalConfig, retrieval
from linear_eval.probe_data import Labeled
from vision import datasets

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(5, 6))


def blobs(count: int, spread: float = 1.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features of five classes.  → N,6 float32 and N"""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 5)
    return (CENTERS[labels] + spread * rng.normal(size=(count, 6))).astype(np.float32), labels


def values(measure) -> dict[str, float]:
    return {figure.name: figure.value for figure in measure.figures}


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# -------------------------------------------------------------------------------------------------------------- retrieval


def test_retrieval_is_brute_force_and_scikit_learns_average_precision():
    x, labels = blobs(83)
    labels[7] = 9  # alone in its class
    z, found = unit(x), {name: [] for name in ("mAP", "mAP@R", "Recall@1", "Recall@5")}
    for q in range(len(z)):
        others = np.delete(np.arange(len(z)), q)
        right = labels[others] == labels[q]
        if not right.any():
            continue
        similarity = z[others] @ z[q]
        ranked = right[np.argsort(-similarity, kind="stable")]
        R = int(right.sum())
        found["mAP"].append(metrics.average_precision_score(right, similarity))
        found["mAP@R"].append(sum(ranked[: i + 1].mean() for i in range(R) if ranked[i]) / R)
        found["Recall@1"].append(float(ranked[0]))
        found["Recall@5"].append(float(ranked[:5].any()))
    measure = retrieval(x, labels, RetrievalConfig(1000, [1, 5], 50), 0, "encoder")
    assert values(measure) == pytest.approx({name: 100 * np.mean(one) for name, one in found.items()}, abs=1e-4)
    assert measure.counts == {"queries": 82, "left out, alone in their class": 1}
    assert all(low <= one.value <= high for one in measure.figures for low, high in [one.interval])


def test_retrieval_counted_by_hand():
    """Angles 0°, 10°, 30°, 60°: the classes a a b b."""
    angle = np.deg2rad([0, 10, 30, 60])
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    found = values(retrieval(x, np.array([0, 0, 1, 1]), RetrievalConfig(10, [1], 10), 0, "encoder"))
    assert found["Recall@1"] == 75  # 30° finds 10° first; 60° finds 30°
    assert found["mAP@R"] == 75


def test_a_sample_of_queries_searches_all_images():
    x, labels = blobs(60)
    measure = retrieval(x, labels, RetrievalConfig(7, [1], 10), 0, "encoder")
    assert measure.counts["queries"] == 7


def test_no_query_with_another_of_its_class():
    x, _ = blobs(6)
    measure = retrieval(x, np.arange(6), RetrievalConfig(10, [1], 10), 0, "encoder")
    assert (measure.figures, measure.counts) == ([], {"queries": 0, "left out, alone in their class": 6})


# ------------------------------------------------------------------------------------------------------------- clustering


CLUSTERS = ClusteringConfig(images=1000, restarts=3, bootstrap=20, classes=100)


def test_clusters_that_are_classes_are_found_whatever_their_order():
    train, test = (Labeled(*blobs(100, 0.01, seed)) for seed in (1, 2))
    found = clustering(train, test, 5, CLUSTERS, 0, "encoder")
    assert values(found) == pytest.approx(dict.fromkeys(("accuracy", "NMI", "AMI", "ARI"), 100.0))


def test_the_matching_is_the_best_of_all_and_its_classes_are_distinct():
    import itertools

    rng = np.random.default_rng(3)
    labels, clusters = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    match = matching(labels, clusters, 4)
    best = max((np.array(order)[clusters] == labels).sum() for order in itertools.permutations(range(4)))
    assert sorted(match) == [0, 1, 2, 3]
    assert (match[clusters] == labels).sum() == best


def test_test_labels_choose_no_cluster_and_no_match():
    train, (x, labels) = Labeled(*blobs(200)), blobs(400, seed=2)
    right = clustering(train, Labeled(x, labels), 5, CLUSTERS, 0, "encoder")
    moved = (labels + 1) % 5  # a match on test would find all of them again
    wrong = clustering(train, Labeled(x, moved), 5, CLUSTERS, 0, "encoder")
    assert values(right)["NMI"] == pytest.approx(values(wrong)["NMI"])
    assert values(right)["accuracy"] > 40 > 25 > values(wrong)["accuracy"]


# --------------------------------------------------------------------------------------------------------------- few shot


def test_few_shot_is_a_loop_over_episodes():
    x, labels = blobs(200)
    config = FewShotConfig(ways=3, shots=[1, 4], queries=6, episodes=9)
    z, found = unit(x), {1: [], 4: []}
    for episode in range(9):
        support, queries = draw_episode(labels, np.arange(5), (3, 4, 6), 7, episode)
        assert len({*support.ravel(), *queries.ravel()}) == 3 * 10
        assert (labels[queries] == labels[support[:, :1]]).all()
        for shots, accuracies in found.items():
            centers = np.stack([z[row[:shots]].mean(0) for row in support])
            nearest = cdist(z[queries.ravel()], centers).argmin(1)
            accuracies.append((nearest == np.repeat([0, 1, 2], 6)).mean())
    measure = few_shot(x, labels, config, 7, "encoder")
    for figure, accuracies in zip(measure.figures, found.values(), strict=True):
        assert figure.value == pytest.approx(100 * np.mean(accuracies))
        half = 196 * np.std(accuracies, ddof=1) / 3
        assert figure.interval == pytest.approx([figure.value - half, figure.value + half])
    assert [figure.name for figure in measure.figures] == ["3-way 1-shot", "3-way 4-shot"]
    assert few_shot(x, labels, config, 7, "encoder") == measure


def test_few_classes_make_fewer_ways_and_none_is_noted():
    x, labels = blobs(100)
    config = FewShotConfig(ways=5, shots=[1], queries=15, episodes=4)
    labels = np.where(labels == 4, np.arange(100) % 2 + 4, labels)  # of the fifth, ten each: too few
    measure = few_shot(x, labels, config, 0, "encoder")
    assert measure.figures[0].name == "4-way 1-shot"
    assert measure.counts["classes left out, too small"] == 2
    alone = few_shot(x[labels == 1], labels[labels == 1], config, 0, "encoder")
    assert not alone.figures
    assert "left out" in alone.note


# --------------------------------------------------------------------------------------------------------------- open set


def test_detection_is_scikit_learns_with_ties_and_weights():
    rng = np.random.default_rng(0)
    scores, unknown = rng.integers(0, 12, 200) / 4, rng.random(200) < 0.3
    weights = rng.integers(0, 3, (6, 200)).astype(np.float32)
    for row, w in zip(detection(scores, unknown, weights), weights, strict=True):
        fpr, tpr, _ = metrics.roc_curve(unknown, scores, sample_weight=w, drop_intermediate=False)
        peer = [
            metrics.roc_auc_score(unknown, scores, sample_weight=w),
            metrics.average_precision_score(unknown, scores, sample_weight=w),
            fpr[np.flatnonzero(tpr >= 0.95 - 1e-9)[0]],
        ]
        assert row == pytest.approx(peer)


def test_fpr95_counted_by_hand():
    """20 unknown images, of which 19 must be found: the 19th lies among the known ones, below two of them."""
    scores = np.array([*range(100, 82, -1), 50, 1, 60, 55, 40, 30, 20], float)
    unknown = np.array([True] * 20 + [False] * 5)
    assert detection(scores, unknown, np.ones((1, 25)))[0, 2] == pytest.approx(2 / 5)
    one_kind = detection(scores[:20], unknown[:20], np.ones((1, 20)))
    assert np.isnan(one_kind).all()


OPEN = OpenSetConfig(share=0.2, draws=3, k=5, C=1.0, iterations=50, images=1000, bootstrap=10)


def test_detectors_are_brute_force():
    x, labels = blobs(150)
    test, _ = blobs(40, seed=2)
    found = detectors(Trial(Labeled(x, labels), test, np.zeros(40, bool)), OPEN)
    distance, _ = NearestNeighbors(n_neighbors=5).fit(unit(x)).kneighbors(unit(test))
    assert found["kNN distance"] == pytest.approx(distance[:, -1] ** 2, abs=1e-5)
    means = np.stack([x[labels == c].mean(0, dtype=np.float64) for c in range(5)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(x - means[labels]).covariance_)
    each = [[(row - mean) @ precision @ (row - mean) for mean in means] for row in test.astype(np.float64)]
    assert found["Mahalanobis"] == pytest.approx(np.min(each, 1))


def test_a_class_far_from_the_others_is_found_and_test_labels_choose_nothing():
    x, labels = blobs(300, 0.1)
    test, truth = blobs(200, 0.1, seed=2)
    measures = open_set(Labeled(x, labels), Labeled(test, truth), 5, OPEN, 0, "encoder")
    assert [one.variant for one in measures] == ["kNN distance", "Mahalanobis", "energy"]
    assert all(values(one)["AUROC"] > 99 for one in measures[:2])
    for one in measures[1].figures:
        assert one.interval[0] - 1e-6 <= one.value <= one.interval[1] + 1e-6
    trials = [
        [trial.train.labels for trial in held_out(Labeled(x, labels), Labeled(test, some), 5, OPEN, 0)]
        for some in (truth, np.roll(truth, 1))
    ]
    for one, two in zip(*trials, strict=True):
        assert (one == two).all()
        assert len(np.unique(one)) == 4


def test_another_data_set_and_two_classes():
    x, labels = blobs(100, 0.1)
    found = open_set(Labeled(x, labels), Labeled(x, labels), 5, OPEN, 0, "encoder", others=x + 30)
    assert values(found[1]) == pytest.approx({"AUROC": 100, "AUPR": 100, "FPR95": 0})
    two = labels < 2
    left_out = open_set(Labeled(x[two], labels[two]), Labeled(x[two], labels[two]), 2, OPEN, 0, "encoder")
    assert all(not one.figures and "left out" in one.note for one in left_out)


# ---------------------------------------------------------------------------------------------------------------- quality


def test_the_slope_of_an_exact_power_law():
    variance = np.arange(1.0, 301) ** -1.3
    assert power_law(variance, 11, 100) == (pytest.approx(1.3), 100)
    assert power_law(variance[:50], 11, 100)[1] == 25  # half of the components
    assert power_law(variance[:20], 11, 100) == (None, 10)
    assert power_law(np.zeros(20), 11, 100)[0] is None


def test_lidar_is_its_formula():
    views = torch.randn(12, 4, 5, generator=torch.Generator().manual_seed(0)) + torch.arange(12.0)[:, None, None] * 0.3
    z = views.double().numpy()
    means = z.mean(1)
    within = sum(np.outer(v - m, v - m) for image, m in zip(z, means, strict=True) for v in image) / (12 * 3) + 1e-4 * np.eye(5)
    root = fractional_matrix_power(within, -0.5)
    values = np.linalg.eigvalsh(root @ np.cov(means.T) @ root)
    share = values / values.sum()
    assert lidar(views, 1e-4) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_clids_parts_are_loops():
    x, _ = blobs(80)
    distance = np.sort(cdist(unit(x), unit(x)), 1)
    assert intrinsic_dimension(x) == pytest.approx(80 / np.log(distance[:, 2] / distance[:, 1]).sum(), rel=1e-4)
    assert intrinsic_dimension(np.repeat(x[:5], 4, axis=0)) is None  # every image has a copy
    assert learnability(np.repeat(x[:1], 9, axis=0), 1, 0) == 1.0
    far, _ = blobs(100, 1e-3)  # five points: the cluster of the nearest earlier one, but for the first of each
    assert learnability(far, 5, 0) == pytest.approx(95 / 99, abs=0.05)


def test_quality_states_its_constants():
    x, _ = blobs(90)
    config = QualityConfig(images=80, alpha=[1, 3], clusters=3, learned=50, lidar_images=4, lidar_views=2, delta=1e-4)
    measure = quality(x, torch.randn(4, 2, 6), config, 0, "encoder")
    assert "n 4, q 2, δ 0.0001" in measure.note
    assert "components 1 to 3" in measure.note
    assert "compare only across models" in measure.note
    variance = np.linalg.svd(x[np.linspace(0, 89, 80).astype(int)] - x[np.linspace(0, 89, 80).astype(int)].mean(0))[1] ** 2
    assert values(measure)["stable rank"] == pytest.approx(variance.sum() / variance[0], rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------- leakage


def test_near_duplicates_and_copies_are_counted():
    train, _ = blobs(40)
    test = blobs(10, seed=2)[0]
    test[3], test[6] = train[5] * 2, train[9] + 0.01  # the same direction; almost
    positions = Positions(np.arange(40) + 100, np.arange(10) + 50)
    found = leakage(train, test, positions, 0, LeakageConfig(0.999), 0, "encoder")
    assert found.pairs == [[53, 105], [56, 109]]
    assert values(found)["near-duplicates"] == 20
    data = datasets.load("digits")
    both = data.train.select(torch.tensor([3, 5, 5, 8]))
    assert exact_copies(data.train, both, 8) == 4
    again = exact_copies(both, data.test, 8)
    pixels = {image.numpy().tobytes() for image in both.images}
    assert again == sum(image.numpy().tobytes() in pixels for image in data.test.images)


def test_resamples_are_the_same_each_time_and_differ():
    first, again = (list(resamples(30, 4, 5)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({tuple(one) for one in first}) == 5
    assert {i for one in first for i in one} <= set(range(30))
