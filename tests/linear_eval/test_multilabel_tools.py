"""Several labels an image from the folder to the report: pretraining, evaluation, fine-tuning, export's figures, service."""
import json

import numpy as np
import pytest
import safetensors
import torch
from commands import run
from multilabel_sets import CLASSES, mosaics
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from sklearn.neighbors import NearestNeighbors

from deploy.accuracy import accuracy, metric
from deploy.export import check_classes
from deploy.export_module import load
from deploy.gallery_files import write_gallery
from deploy.runtime import eager
from deploy.service import several_classes
from distill.teacher import from_file
from linear_eval import sheets
from linear_eval.samples import Sample
from vision import artifact, datasets, encoders
from vision.reading import Reading

GIVEN = ["--data=folder", "--data.labels=labels.csv", "--encoder=test_resnet", "--image_size=16", "--workers=0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mosaics")
    mosaics(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    encoder = encoders.create("test_resnet", 3, 16)
    header = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.25,) * 3, encoder.dim, {})
    (folder / "encoder.safetensors").write_bytes(artifact.dumps(encoder, header, {}))
    words = [*GIVEN[:2], *GIVEN[3:], "--encoder", folder / "encoder.safetensors", "--data.root", root]
    words += ["--batch_size=16", "--steps=6", "--evals=2", "--method.mixup=0.2"]
    ended = run(*words, "--out", folder / "run", logs=folder / "logs", module="linear_eval.finetune")
    assert ended.code == 0, ended.err
    return folder / "run", ended


def test_pretraining_scores_by_mean_average_precision(root, tmp_path):
    words = [*GIVEN, "--method=simclr", "--data.root", root, "--batch_size=16", "--steps=2", "--evals=1",
             "--method.hidden=16", "--method.dim=8"]
    ended = run(*words, "--out", tmp_path / "run", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    assert "taken as several labels an image, of column labels separated by ;" in ended.err
    test = json.loads((tmp_path / "run" / "test.json").read_text())
    assert set(test["pretrained"]) == {"knn_map", "logistic_map"}
    report = (tmp_path / "run" / "report.md").read_text()
    assert "kNN mAP | logistic mAP" in report
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("knn_map" in row for row in rows)


@pytest.mark.parametrize(("words", "module", "told"), [
    (["--method=supcon", "--batch_size=16"], "ssl.pretrain", "method=supcon takes one label an image"),
    (["--smote=true"], "linear_eval.evaluate", "smote=true takes one label an image"),
    (["--balanced=true", "--batch_size=16"], "linear_eval.finetune", "balanced=true takes one label an image"),
])
def test_what_needs_one_label_an_image_refuses_by_name(root, tmp_path, words, module, told):
    ended = run(*GIVEN, "--data.root", root, *words, "--out", tmp_path / "run", logs=tmp_path / "logs", module=module)
    assert ended.code == 2
    assert told in ended.err.splitlines()[-1]


@pytest.mark.slow
def test_an_evaluation_has_rows_of_average_precision(root, tmp_path):
    words = [*GIVEN, "--data.root", root, "--parts=[knn,linear,logistic,ridge,labels,curve,baselines]", "--cache=none",
             "--protocol.linear.epochs=2", "--protocol.linear.rates=[0.1,1.0]", "--protocol.labels.shares=[0.3]",
             "--protocol.labels.draws=2"]
    ended = run(*words, "--out", tmp_path / "run", logs=tmp_path / "logs", module="linear_eval.evaluate")
    assert ended.code == 0, ended.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["classes"] == list(CLASSES)
    assert {row["method"] for row in results["rows"]} >= {"knn", "linear", "logistic", "ridge", "svm", "random forest"}
    for row in results["rows"]:
        low, high = row["interval"]
        assert low <= row["mean_average_precision"] <= high
        assert len(row["average_precisions"]) == len(CLASSES)
        assert 0 <= row["macro_f1"] <= 100
    (few,) = [row for row in results["rows"] if row["method"] == "knn" and row["draws"] == 2 and row["source"] == "encoder"]
    assert few["std"] is not None
    assert any("the curve of label efficiency is left out" in note for note in results["notes"])
    page = (tmp_path / "run" / "report.md").read_text()
    assert "## Mean average precision" in page
    assert "| astronaut |" in page
    assert (tmp_path / "run" / "neighbours.png").stat().st_size > 1000
    assert "mAP" in ended.out


def test_a_classifier_gives_each_class_its_own_probability(root, tuned):
    folder, ended = tuned
    results = json.loads((folder / "results.json").read_text())
    row, frozen = results["rows"]
    assert (row["method"], frozen["method"]) == ("finetune", "logistic")
    assert frozen["chosen"]["C"] in (0.01, 0.1, 1.0, 10.0)
    assert "mean average precision on validation images; fine-tuning begins there" in ended.err
    file = folder / "classifier.safetensors"
    model, header = artifact.load_classifier(file)
    assert header.multilabel
    assert header.threshold == row["threshold"]
    assert header.classes == CLASSES
    dataset = datasets.load("folder", root, labels="labels.csv")
    pixels = dataset.test.resized(torch.arange(len(dataset.test)), 16).float() / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (header.mean, header.std))
    with torch.no_grad():
        scores = model((pixels - mean) / std).sigmoid().numpy()
    labels = dataset.test.labels.numpy()
    assert row["mean_average_precision"] == pytest.approx(100 * average_precision_score(labels, scores), abs=0.5)
    assert row["micro_f1"] == pytest.approx(
        100 * f1_score(labels, scores >= header.threshold, average="micro"), abs=1.5)  # an image at the threshold
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_map" in one for one in rows)
    assert "mAP" in ended.out
    with safetensors.safe_open(folder / "encoder.safetensors", "pt") as encoder:
        assert "threshold" not in encoder.metadata()["nolabel"]
    member = from_file(str(file), "teacher")
    assert member.head is None  # distillation of logits would take them for one class among others


def test_export_measures_and_names_it(root, tuned, tmp_path):
    folder, _ = tuned
    module = load(folder / "classifier.safetensors")
    several = datasets.load("folder", root, labels="labels.csv")
    check_classes("folder", several, module.header)
    assert metric(module, several) == "mean average precision"
    row, _ = json.loads((folder / "results.json").read_text())["rows"]
    assert accuracy(eager(module), module, several, several.test) == pytest.approx(row["mean_average_precision"], abs=0.5)
    assert module.metadata["threshold"] == module.header.threshold
    encoder = load(folder / "encoder.safetensors")
    assert "threshold" not in encoder.metadata
    assert metric(encoder, several) == "kNN mean average precision"
    assert 0 < accuracy(eager(encoder), encoder, several, several.test) <= 100
    unlabelled = datasets.load("folder", root, labels="none", reading=Reading())
    assert metric(encoder, unlabelled) == "same nearest image as torch"
    assert accuracy(eager(encoder), encoder, unlabelled, unlabelled.validation) == 100
    with pytest.raises(ValueError, match="has no labels, so no accuracy could be measured"):
        check_classes("folder", unlabelled, module.header)
    write_gallery(several, tmp_path / "gallery", 20)
    assert {path.name for path in (tmp_path / "gallery").iterdir()} <= {
        "+".join(some) for some in {tuple(np.array(CLASSES)[row.bool().numpy()]) for row in several.train.labels}}


def test_the_service_names_every_class_from_the_threshold_on():
    found = several_classes(np.array([2.0, -3.0, 1.0, 0.0]), ["a", "b", "c", "d"], 0.5, top=1)
    assert [(one["class"], one["predicted"]) for one in found] == [("a", True), ("c", True), ("d", True)]
    assert found[0]["probability"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert [one["class"] for one in several_classes(np.array([-9.0, -3.0]), ["a", "b"], 0.5, top=1)] == ["b"]


def test_a_run_without_labels_ends_with_a_sheet_of_neighbors_and_a_gallery(root, tmp_path):
    words = ["--data=folder", "--data.root", root, "--data.labels=none", "--encoder=test_resnet", "--image_size=16",
             "--workers=0", "--method=simclr", "--batch_size=16", "--steps=2", "--evals=1", "--method.hidden=16"]
    ended = run(*words, "--out", tmp_path / "run", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "](neighbours.png)" in report
    assert Image.open(tmp_path / "run" / "neighbours.png").size[0] > 300
    assert "uv run python -m deploy.export --encoder" in ended.out
    assert "uv run python -m deploy.serve --model" in ended.out


def test_the_sheet_shows_the_nearest_other_images(root, monkeypatch):
    dataset = datasets.load("folder", root, labels="none")
    sample = Sample(dataset.pretrain, 30, encoders.create("test_resnet", 3, 16).spec)
    drawn = []
    monkeypatch.setattr(sheets.pictures, "neighbors", lambda rows, names: drawn.append(rows) or b"")
    positions, (features,) = sample.describe(lambda images, _: images.flatten(1).float())
    sheets.neighbor_sheet(sample, positions, features)
    (rows,) = drawn
    pixels = dataset.pretrain.resized(sample.indices, 16).flatten(1).numpy().astype(float)
    queries = np.linspace(0, 29, 8).astype(int)
    _, index = NearestNeighbors(n_neighbors=9, metric="cosine").fit(pixels).kneighbors(pixels[queries])
    np.testing.assert_array_equal(rows.nearest.reshape(8, 8, -1), pixels[index[:, 1:]])
    np.testing.assert_array_equal(rows.queries.reshape(8, -1), pixels[queries])


def test_words_of_a_page_are_plain(tuned):
    page = (tuned[0] / "report.md").read_text()
    assert "settings as given" in page
    assert "fixed beforehand" in page
    assert "nothing: fixed" not in page
    assert "protocol none" not in page


@pytest.mark.long
def test_an_encoder_without_labels_is_exported_with_a_gallery(root, tmp_path):
    encoder = encoders.create("test_resnet", 3, 16)
    header = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.5,) * 3, encoder.dim, {})
    (tmp_path / "encoder.safetensors").write_bytes(artifact.dumps(encoder, header, {}))
    words = ["--encoder", tmp_path / "encoder.safetensors", "--data=folder", "--data.root", root, "--data.labels=none",
             "--preprocess", "--gallery", "20", "--int8=none", "--out", tmp_path / "out"]
    ended = run(*words, logs=tmp_path / "logs", module="deploy.export")
    assert ended.code == 0, ended.err
    assert "has no labels: versions are compared with torch" in ended.err
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["judged"] == "same nearest image as torch"
    assert card["rows"]["onnxruntime"]["accuracy"] > 90
    assert len(list((tmp_path / "out" / "gallery" / "images").glob("*.png"))) == 20
