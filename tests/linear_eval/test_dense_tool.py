"""`python -m linear_eval.dense`: rows beside what they must beat, chosen on validation; mistakes in a line."""
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from sklearn.preprocessing import StandardScaler

from core import cli
from core.processes import session
from linear_eval.dense import inputs
from linear_eval.dense.dense_linear import DenseLinear
from linear_eval.dense.evaluate import evaluate_dense
from linear_eval.dense.inputs import collect_inputs
from linear_eval.dense.patch_labels import PatchLabels
from linear_eval.dense.prediction import predict, upsampled
from linear_eval.dense.samples import PatchSample
from linear_eval.dense.scoring import choose_knn, score_source
from linear_eval.dense.settings import TOOL, changes, check
from vision.data import build_segmentation
from vision.segmentation import IGNORED, MasksInMemory

CPU = torch.device("cpu")
WORDS = ["encoder=test_vit", "data=scenes", "data.images=40", "protocol.knn.bank=300", "protocol.linear.patches=300"]
WORDS += ["protocol.linear.C=[0.01,1.0]", "protocol.linear.iterations=60", "protocol.knn.k=[5,20]"]


def settings_of(tmp_path, *more: str):
    return cli.compose(TOOL, [*WORDS, f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    settings = settings_of(folder)
    return settings, evaluate_dense(settings), folder


def test_every_part_is_there_for_every_source_with_an_interval(finished):
    _, result, folder = finished
    kept = json.loads((folder / "run" / "results.json").read_text())
    assert kept == json.loads(json.dumps(result.evaluation.to_json()))
    sources = ("encoder", "HOG cells", "raw patches")
    expected = {(source, method) for source in sources for method in ("dense_knn", "dense_linear")}
    rows = {(row["source"], row["method"]): row for row in kept["rows"]}
    assert rows.keys() == expected | {("most common class", "constant")}
    for (_, method), row in rows.items():
        figures = row["figures"]
        low, high = figures["miou"]["interval"]
        assert 0 <= low <= high <= 100
        assert figures["images"] == 8
        assert row["selected_on"] == ("nothing: fixed" if method == "constant" else "8 validation images")
    assert rows["encoder", "dense_knn"]["patches"] == 300
    assert kept["protocol_changes"]["knn.bank"] == 300
    assert "the encoder has random weights" in kept["notes"]
    assert [row for row in result.text.splitlines() if row.startswith("most common class")]
    html = (folder / "run" / "report.html").read_text()
    assert html.index("Summary") < html.index("By class") < html.index("How it was measured")
    assert html.count("data:image/png") == 2
    assert len(html) < 1_500_000


def test_figures_are_scikit_learns_of_the_same_predictions(finished):
    settings, result, _ = finished
    with session("cpu") as world:
        found = collect_inputs(settings, world)
    source, test = next(iter(found.sources)), found.splits["test"]
    (row,) = [r for r in result.evaluation.rows if (r.source, r.method) == ("encoder", "dense_knn")]
    chosen = choose_knn(settings, found, source)
    assert chosen.settings == row.chosen
    assert chosen.validation == row.validation
    images = list(predict(chosen.model.scores, source.test_blocks(test.images, CPU), test.masks, found.grid))
    truth = np.concatenate([image.truth.ravel() for image in images])
    predicted = np.concatenate([image.candidates[0].ravel() for image in images])
    assert row.miou == pytest.approx(100 * jaccard_score(truth, predicted, average="macro", zero_division=0), abs=1e-6)


def test_labels_of_test_change_no_choice(finished, tmp_path, monkeypatch):
    """Masks of test given to other images, with other classes: every choice and validation figure stays."""
    _, result, _ = finished

    def shuffled(given):
        data = build_segmentation(given)
        masks = (data.test.masks.masks[::-1].astype(int) * 7 + 3) % len(data.test.classes)
        return dataclasses.replace(data, test=dataclasses.replace(data.test, masks=MasksInMemory(masks.astype(np.uint8))))

    monkeypatch.setattr(inputs, "build_segmentation", shuffled)
    other = evaluate_dense(settings_of(tmp_path, "picture=false"))
    before, after = ([row for row in r.evaluation.rows if row.method != "constant"] for r in (result, other))
    assert [(r.source, r.method, r.chosen, r.validation) for r in before] == [
        (r.source, r.method, r.chosen, r.validation) for r in after
    ]
    assert [r.miou for r in before] != [r.miou for r in after]


def test_test_images_over_the_budget_are_computed_in_passing(finished, tmp_path):
    """Of a budget for 24 images: fewer of training and validation, and the same test images, none of them kept."""
    settings, _, _ = finished
    with session("cpu") as world:
        found = collect_inputs(settings_of(tmp_path, "budget=0.00005"), world)
    source = next(iter(found.sources))
    assert source.test is None
    assert len(source.train) < 40
    assert any("budget=5e-05 GB holds the patches of 12 of 40 training" in note for note in found.notes)
    with session("cpu") as world:
        whole = next(iter(collect_inputs(settings, world).sources))
    passing, cached = (
        np.concatenate([x for _, x in one.test_blocks(found.splits["test"].images, CPU)]) for one in (source, whole)
    )
    np.testing.assert_allclose(passing, cached, atol=2e-3)
    indices = np.concatenate([i for i, _ in source.test_blocks(found.splits["test"].images, CPU)])
    assert indices.tolist() == list(range(8))
    assert len(score_source(settings, found, source).rows) == 2


def test_the_linear_layer_is_scikit_learns_and_never_predicts_an_absent_class():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4) / 2, 400).astype(np.float32)
    shares[:, 2] = 0
    x = (rng.standard_normal((400, 6)) + 2 * shares @ rng.standard_normal((4, 6))).astype(np.float32)
    labels = PatchLabels(shares)
    fitted = DenseLinear.fit(PatchSample(x, labels, 9, 400), [0.01, 1.0], 500, CPU)
    assert fitted.note == ""
    for C, scores in zip((0.01, 1.0), fitted.scores(x), strict=True):
        scaled = StandardScaler().fit_transform(x)
        peer = LogisticRegression(C=C, max_iter=2_000, tol=1e-6).fit(scaled, labels.majority)
        expected = peer.predict_proba(scaled)
        z = scores[:, [0, 1, 3]].astype(float)
        found = np.exp(z - z.max(1, keepdims=True))
        np.testing.assert_allclose(found / found.sum(1, keepdims=True), expected, atol=2e-2)  # both stop by their slopes
        assert not (upsampled(scores, (20, 20), (63, 41)) == 2).any()


def ignoring(role: str):
    def build(given):
        data = build_segmentation(given)
        split = data.split(role)
        nothing = MasksInMemory(np.full_like(split.masks.masks, IGNORED))
        return dataclasses.replace(data, **{role: dataclasses.replace(split, masks=nothing)})

    return build


@pytest.mark.parametrize(("role", "line"), [
    ("train", "encoder: bank: no mask has a pixel with a label"),
    ("validation", "validation masks: none of 8 images has a pixel with a label"),
    ("test", "test masks: none of 8 images has a pixel with a label"),
])
def test_masks_without_a_label_are_one_line(role, line, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "build_segmentation", ignoring(role))
    settings = settings_of(tmp_path, "parts=[dense_knn]", f"cache={finished[2] / 'cache'}")
    with pytest.raises(ValueError, match=line):
        evaluate_dense(settings)


@pytest.mark.parametrize(("words", "line"), [
    (["encoder=null"], "encoder=…: name the encoder"),
    (["parts=[knn]"], "parts=knn: there are dense_knn, dense_linear, attentive"),
    (["image_fit=crop"], "image_fit=crop: every pixel of a mask needs a patch"),
    (["protocol.knn.k=[0]"], r"protocol.knn.k=\[0\]: must be more than 0"),
    (["protocol.knn.bank=many"], "protocol.knn.bank=many: must be like 20000"),
    (["budget=0"], "budget=0"),
])
def test_a_mistake_is_one_line(words, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        check(settings_of(tmp_path, *words))


@pytest.mark.parametrize(("words", "line"), [
    (["parts=[dense_knn,attentive]"], "attentive needs image labels, dense_knn masks; give two commands"),
    (["parts=[attentive]"], "data=scenes has no labels"),
])
def test_parts_need_their_kind_of_labels(words, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        evaluate_dense(settings_of(tmp_path, *words))


def test_data_without_masks_is_refused(tmp_path):
    settings = cli.compose(TOOL, ["encoder=test_vit", "data=digits", f"out={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match="data=digits has no masks"):
        evaluate_dense(settings)


def test_image_labels_by_the_attentive_probe(tmp_path):
    words = ["encoder=test_resnet", "data=digits", "parts=[attentive]"]
    words += ["protocol.attentive.epochs=1", "protocol.attentive.least_steps=1"]
    words += ["protocol.attentive.rates=[0.01]", f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", "image_size=16"]
    result = evaluate_dense(cli.compose(TOOL, words))
    rows = {(row.source, row.method) for row in result.evaluation.rows}
    sources = ("encoder", "HOG cells", "raw patches")
    assert rows == {(source, method) for source in sources for method in ("attentive", "logistic")}
    assert all(row.selected_on == "144 validation images" for row in result.evaluation.rows)
    assert (tmp_path / "run" / "report.html").exists()


def test_the_protocol_is_frozen():
    content = json.dumps(cli.flat(TOOL.example("protocol", "dense_v1")), sort_keys=True)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "fc254098b21a510f"
    assert changes(cli.compose(TOOL, ["encoder=test_vit"]).protocol) == {}
