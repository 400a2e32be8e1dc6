"""An evaluation prints first answers first, resumes after a kill, and measures cached features by protocol v2."""
import hashlib
import json
import re
import signal
import time

import numpy as np
import pytest
import torch
from commands import run, start

from core import cli
from linear_eval import evaluate, inputs, kept, pictures
from linear_eval.evaluate import TOOL
from linear_eval.kept import Kept, KeptParts
from linear_eval.protocols import Method
from linear_eval.results import Measure
from linear_eval.scoring import stage
from linear_eval.settings import MEASURES
from vision import artifact, datasets, encoders
from vision.augment import Augmentation

MODULE = "linear_eval.evaluate"
QUICK = ["--protocol.linear.epochs=2", "--protocol.curve.draws=2", "--protocol.curve.per_class=[1,5]", "--picture=false"]
SMALL = ["retrieval.bootstrap=20", "clustering.bootstrap=10", "clustering.restarts=2", "few_shot.episodes=20"]
SMALL += ["open_set.bootstrap=10", "open_set.draws=2", "open_set.iterations=20", "quality.images=300", "quality.learned=100"]
SMALL += ["quality.lidar_images=20", "quality.lidar_views=3", "leakage.similarity=0.9"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    torch.manual_seed(5)
    data = datasets.load("digits")
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    module = encoders.create("test_resnet", 1, 8)
    path.write_bytes(artifact.dumps(module, Augmentation(8, data.mean, data.std), {"tool": "a test"}))
    return str(path)


def results(folder) -> dict:
    """results.json without clocks and the command."""
    content = json.loads((folder / "results.json").read_text())
    for row in (content, *content["rows"]):
        row.pop("seconds")
    content.pop("command")
    return content


# ------------------------------------------------------------------------------------------------------- order and resume


def test_first_answers_come_first():
    pieces = [("PCA", 1.0, Method("knn")), ("encoder", 0.1, Method("knn")), ("encoder", 1.0, Method("ridge")),
              ("raw pixels", 1.0, Method("linear")), ("encoder", 1.0, Method("linear")), ("encoder", 1.0, Method("svm", True))]
    assert [stage(*piece) for piece in pieces] == [4, 3, 2, 1, 0, 4]


def test_a_killed_evaluation_resumes_with_the_parts_that_were_finished(encoder, tmp_path):
    words = [f"--encoder={encoder}", "--data=digits", "--parts=[knn,linear,ridge,curve]", *QUICK]
    words += [f"--cache={tmp_path / 'cache'}"]
    whole = run(*words, f"--out={tmp_path / 'whole'}", logs=tmp_path / "logs", module=MODULE)
    assert whole.code == 0, whole.err
    scores = [line.split()[:2] for line in whole.err.splitlines() if " … " in line and "%" in line]
    assert scores[:2] == [["encoder", "kNN"], ["encoder", "linear"]]
    lines = whole.err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("untrained"))
    assert lines[first - 1].startswith("estimate: "), whole.err
    out = tmp_path / "killed"
    process = start(*words, f"--out={out}", logs=tmp_path / "killed_logs", module=MODULE)
    while len(list((out / "parts").glob("*.npz"))) < 3:
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert not (out / "results.json").exists()
    again = run(*words, f"--out={out}", logs=tmp_path / "again_logs", module=MODULE)
    assert again.code == 0, again.err
    assert "resuming: " in again.err
    assert not any(re.match("encoder +kNN", line) for line in again.err.splitlines())
    assert results(out) == results(tmp_path / "whole")
    assert not (out / "parts").exists()


def test_parts_of_other_code_and_torn_files_are_computed_again(tmp_path, monkeypatch):
    first = KeptParts(tmp_path, seconds=5)
    first.write("a", Kept({"x": [1.5, None]}, np.eye(2)))
    first.write("b", Kept([3]))
    again = KeptParts(tmp_path)
    assert again.parts["a"].record == {"x": [1.5, None]}
    assert (again.parts["a"].scores == np.eye(2)).all()
    assert again.parts["b"].scores is None
    assert again.elapsed >= 5
    path = tmp_path / "parts" / "b.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert set(KeptParts(tmp_path).parts) == {"a"}
    monkeypatch.setattr(kept, "code", lambda: "another")
    assert not KeptParts(tmp_path).parts


# --------------------------------------------------------------------------------------------------------------- measures


@pytest.fixture(scope="module")
def measured(encoder, tmp_path_factory):
    """Settings of an evaluation by all measures, and what it found."""
    folder = tmp_path_factory.mktemp("measured")
    words = [f"encoder={encoder}", "data=digits", f"parts=[knn,{','.join(MEASURES)}]", "protocol=v2"]
    words += [f"cache={folder / 'cache'}", *(f"protocol.{word}" for word in SMALL)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "plane", lambda x, seed, names: dict.fromkeys(("PCA", "t-SNE", "UMAP"), x[:, :2]))
        result = evaluate.evaluate(cli.compose(TOOL, [*words, f"out={folder / 'run'}"]))
    return words, folder / "run", next(iter(result.evaluations.values()))


def test_every_measure_of_every_source_is_in_the_file_and_on_the_page(measured):
    _, folder, evaluation = measured
    kept_measures = results(folder)["measures"]
    assert [Measure.from_json(one) for one in kept_measures] == evaluation.measures
    found = {(one.part, one.source) for one in evaluation.measures}
    assert found == {(part, source) for part in MEASURES for source in ("encoder", "untrained", "raw pixels")}
    page = (folder / "report.html").read_text()
    for heading in ("Whole images", "Few labels", "Open set", "Structure"):
        assert f"<h2>{heading}</h2>" in page
    text = (folder / "report.md").read_text()
    assert "Recall@1" in text
    assert "5-way 1-shot" in text
    assert "FPR95" in text
    assert (folder / "near_duplicates.png").exists()


def test_test_labels_choose_nothing(measured, tmp_path, monkeypatch):
    """With test labels in another order every choice, and every measure without test labels, stays as it is."""
    words, _, before = measured
    build = inputs.build_data

    def permuted(settings):
        data = build(settings)
        data.test.labels.copy_(data.test.labels[torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))])
        return data

    monkeypatch.setattr(inputs, "build_data", permuted)
    settings = cli.compose(TOOL, [*words, f"out={tmp_path / 'run'}", "picture=false"])
    after = next(iter(evaluate.evaluate(settings).evaluations.values()))
    assert [(row.chosen, row.validation) for row in after.rows] == [(row.chosen, row.validation) for row in before.rows]
    assert after.rows[0].accuracy < before.rows[0].accuracy - 20
    for one, other in zip(before.measures, after.measures, strict=True):
        if one.part in ("quality", "leakage"):
            assert one == other
        elif one.part != "open_set":
            assert one.figures[0].value > other.figures[0].value
        assert {**one.counts} == {**other.counts}


def test_protocol_v2_is_v1_and_the_measures_frozen():
    v1, v2 = (cli.flat(TOOL.example("protocol", name)) for name in ("v1", "v2"))
    assert {name: value for name, value in v2.items() if name in v1} == v1 | {"name": "v2"}
    assert {name.partition(".")[0] for name in set(v2) - set(v1)} == set(MEASURES)
    assert hashlib.sha256(json.dumps(v2, sort_keys=True).encode()).hexdigest()[:16] == "b5ecafe3e0cae632"


@pytest.mark.parametrize(("words", "message"), [
    (["parts=[knn,retrieval]"], "parts=retrieval: protocol=v1 has no constants of it; give protocol=v2"),
    (["parts=[knn]", "unknown=synthetic"], "unknown=synthetic is of open_set"),
    (["parts=[open_set]", "protocol=v2", "unknown=mnits"], "unknown=mnits: there is no such data"),
    (["parts=[open_set]", "protocol=v2", "protocol.open_set.k=0.5"], "protocol.open_set.k=0.5: must be like 50"),
])
def test_wrong_settings_of_measures(encoder, words, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("(", r"\(")):
        evaluate.check(cli.compose(TOOL, [f"encoder={encoder}", "data=digits", *words]))


def test_open_set_with_another_data_set(encoder, tmp_path):
    words = [f"encoder={encoder}", "data=digits", "parts=[open_set]", "protocol=v2", "unknown=synthetic", "cache=none"]
    words += [f"protocol.{word}" for word in SMALL] + ["picture=false", f"out={tmp_path / 'run'}"]
    evaluation = next(iter(evaluate.evaluate(cli.compose(TOOL, words)).evaluations.values()))
    assert evaluation.rows == []
    known, unknown = len(datasets.load("digits").test), len(datasets.load("synthetic").test)
    assert {one.counts["test images"] for one in evaluation.measures} == {known + unknown}
    assert "another data set" in evaluation.measures[0].note
