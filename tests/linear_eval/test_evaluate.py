"""`python -m linear_eval.evaluate`: one table, chosen on validation; a protocol that stays as it is; mistakes in a line."""
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from core import cli
from core.processes import World
from linear_eval import evaluate, finetune
from linear_eval.constants import changed_constants
from linear_eval.evaluate import TOOL
from linear_eval.fit import check_labels, check_validation
from linear_eval.inputs import finetunings
from linear_eval.settings import PARTS
from vision import artifact, datasets, encoders
from vision.augment import Augmentation

MODULE = "linear_eval.evaluate"
QUICK = ["--protocol.linear.epochs=2", "--protocol.curve.draws=2", "--protocol.finetune.epochs=1", "--protocol.labels.draws=2"]
QUICK += ["--protocol.finetune.least_steps=4", "--protocol.baselines.sample=200", "--protocol.logistic.C=[0.01,1.0]"]
QUICK += ["--protocol.curve.per_class=[1,5]", "--protocol.finetune.batch_size=32", "--picture=false"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """An encoder.safetensors for digits."""
    torch.manual_seed(5)
    data = datasets.load("digits")
    module = encoders.create("test_resnet", 1, 8)
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    path.write_bytes(artifact.dumps(module, Augmentation(8, data.mean, data.std), {"tool": "a test"}))
    return str(path)


@pytest.fixture(scope="module")
def finished(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    words = [f"--encoder={encoder}", "--data=digits", f"--out={folder / 'run'}", f"--cache={folder / 'cache'}", *QUICK]
    ended = run(*words, logs=folder, module=MODULE)
    assert ended.code == 0, ended.err
    return folder / "run", ended, words


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.long
def test_every_part_is_there_for_every_source(finished):
    rows = results(finished[0])["rows"]
    found = {(r["source"], r["method"], r["labels"]) for r in rows}
    assert len(found) == len(rows)
    for source in ("encoder", "untrained"):
        assert {(source, method, "100 %") for method in ("knn", "linear", "logistic", "ridge")} <= found
    for source in ("raw pixels", "HOG", "LBP", "SIFT words", "PCA"):
        assert {(source, method, "100 %") for method in ("knn", "linear", "svm", "random forest")} <= found
    for source in ("encoder", "untrained", "raw pixels", "HOG", "LBP", "SIFT words", "PCA"):
        assert {(source, method, share) for method in ("knn", "logistic") for share in ("10 %", "1 %")} <= found
    assert {one for one in found if one[1] == "finetune"} == {(s, "finetune", "100 %") for s in ("encoder", "from scratch")}


def test_every_row_names_what_it_was_selected_on_and_has_an_interval(finished):
    for row in results(finished[0])["rows"]:
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 100
        fixed = row["labels"] != "100 %" or row["method"] in ("finetune", "random forest")
        assert row["selected_on"] == ("nothing: fixed" if fixed else "144 validation images"), row
        assert row["method"] != "knn" or {"k", "T", "normalization"} <= set(row["chosen"])
        drawn = row["labels"] != "100 %" and row["method"] in ("knn", "logistic")
        assert (row["draws"], row["std"] is None) == ((2, False) if drawn else (1, True))


def test_knn_of_the_file_is_scikit_learns(finished, encoder):
    """From the file to the figure, by another way: same features, votes, choice on validation."""
    module, card = artifact.load(encoder)
    data = datasets.load("digits")

    def features(split) -> np.ndarray:
        with torch.no_grad():
            z = module((split.images.float() / 255 - card.mean[0]) / card.std[0])
        return z.half().float().numpy()

    train, validation, test = map(features, (data.train, data.validation, data.test))
    scores = []
    for k in (10, 20, 50, 100, 200):
        peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
        peer.fit(train, data.train.labels)
        scores.append((peer.score(validation, data.validation.labels), peer.score(test, data.test.labels), k))
    best = max(scores, key=lambda s: s[0])
    row = next(r for r in results(finished[0])["rows"] if (r["source"], r["method"]) == ("encoder", "knn"))
    assert row["chosen"]["k"] == best[2]
    assert row["accuracy"] == pytest.approx(best[1] * 100, abs=0.3)  # one of 359 images on a tie


@pytest.mark.long
def test_labels_of_test_change_no_choice(finished, encoder, tmp_path):
    """The same images with shuffled test labels: settings and validation figures stay as they are."""
    data = datasets.load("digits")
    root = tmp_path / "images"
    for split, part, shift in (("train", data.train, 0), ("val", data.validation, 0), ("test", data.test, 1)):
        for i in range(min(len(part), 240)):
            path = root / split / str((int(part.labels[i]) + shift * i) % 10) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[i, 0].numpy()).save(path)
    words = [f"--encoder={encoder}", "--data=folder", "--parts=[knn,linear,logistic,ridge]", "--cache=none", *QUICK]
    shuffled = run(*words, f"--data.root={root}", f"--out={tmp_path / 'a'}", logs=tmp_path / "la", module=MODULE)
    assert shuffled.code == 0, shuffled.err
    right = tmp_path / "right"
    shutil.copytree(root, right)
    shutil.rmtree(right / "test")
    for i in range(240):
        path = right / "test" / str(int(data.test.labels[i])) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.test.images[i, 0].numpy()).save(path)
    unshuffled = run(*words, f"--data.root={right}", f"--out={tmp_path / 'b'}", logs=tmp_path / "lb", module=MODULE)
    assert unshuffled.code == 0, unshuffled.err
    one, two = (results(tmp_path / name)["rows"] for name in "ab")
    assert [(r["chosen"], r["validation"]) for r in one] == [(r["chosen"], r["validation"]) for r in two]
    assert np.mean([r["accuracy"] for r in one]) < np.mean([r["accuracy"] for r in two]) - 20


@pytest.mark.long
def test_again_is_the_same_and_another_configuration_is_refused(finished, tmp_path):
    folder, _, words = finished
    before = results(folder)
    ended = run(*words, logs=tmp_path / "again", module=MODULE)
    assert ended.code == 0, ended.err
    after = results(folder)
    for row in (*before["rows"], *after["rows"]):
        row["seconds"] = 0
    assert after["rows"] == before["rows"]
    assert after["curve"] == before["curve"]
    ended = run(*words, "--seed=1", logs=tmp_path / "other", module=MODULE)
    assert ended.code == 2
    assert "another configuration (" in ended.line
    assert "; seed: 0 → 1)" in ended.line  # another seed holds out other images, too


@pytest.mark.long
def test_two_processes_give_the_figures_of_one(finished, encoder, tmp_path):
    _, _, words = finished
    words = [w for w in words if not w.startswith(("--out", "--cache"))] + ["--parts=[knn,ridge,logistic]", "--cache=none"]
    found = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        ended = run(*words, f"--devices={devices}", f"--out={out}", logs=out.with_suffix(".logs"), module=MODULE)
        assert ended.code == 0, ended.err
        found.append([(r["source"], r["method"], r["chosen"]) for r in results(tmp_path / str(devices))["rows"]])
        found.append([r["accuracy"] for r in results(tmp_path / str(devices))["rows"]])
    assert found[0] == found[2]
    assert found[1] == pytest.approx(found[3], abs=0.3)  # one image of 359: threads may round features differently


@pytest.mark.long
def test_a_suite_is_one_table(encoder, tmp_path):
    words = [f"--encoder={encoder}", "--suite=digits,synthetic", "--parts=[knn]", "--cache=none", *QUICK]
    ended = run(*words, f"--out={tmp_path / 'suite'}", logs=tmp_path / "logs", module=MODULE)
    assert ended.code == 0, ended.err
    kept = json.loads((tmp_path / "suite" / "suite.json").read_text())
    assert [r["data"]["name"] for r in kept] == ["digits", "synthetic"]  # colour, of another size, for a grey encoder of 8 px
    assert kept[1]["encoder"]["channels"] == 1
    for name in ("digits", "synthetic"):
        assert results(tmp_path / "suite" / name)["data"]["name"] == name
        assert name in (tmp_path / "suite" / "suite.md").read_text()


def test_it_is_a_function_from_settings_to_a_record(encoder, tmp_path, capsys):
    words = [f"encoder={encoder}", "data=digits", "parts=[knn]", "cache=none", "picture=false", f"out={tmp_path / 'run'}"]
    result = evaluate.evaluate(cli.compose(TOOL, words))
    assert list(result.evaluations) == [tmp_path / "run"]
    assert result.suite is None
    (evaluation,) = result.evaluations.values()
    assert json.loads(json.dumps(evaluation.to_json())) == results(tmp_path / "run")
    assert [row.source for row in evaluation.rows] == ["encoder", "untrained", "raw pixels"]
    assert capsys.readouterr().out == ""


def test_the_protocol_is_frozen():
    """v1 never changes: other numbers are another protocol, in a file of its own."""
    content = json.dumps(cli.flat(TOOL.example("protocol", "v1")), sort_keys=True)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "8da038847de8587d"
    rates = TOOL.example("protocol", "v1")["linear"]["rates"]
    assert 4 * len(rates) >= 52


def test_a_result_lists_the_numbers_that_are_not_the_protocols(finished):
    kept = results(finished[0])
    assert kept["protocol"] == "v1"
    assert kept["protocol_changes"]["linear.epochs"] == 2
    assert changed_constants(TOOL, TOOL.example("protocol", "v1")) == {}


WORDS = {
    ("--encoder=nothing.safetensors",): ("nothing.safetensors", "no such file"),
    ("--encoder=resnet81",): ("encoder=resnet81", "did you mean"),
    ("--parts=[knn,svm]",): ("parts=svm", "linear"),
    ("--maps=[pca,mds]",): ("maps=mds", "tsne"),
    ("--suite=digits,mnits",): ("mnits", "mnist"),
    ("--protocol=v9",): ("protocol=v9", "v1"),
    ("--protocol.knn.k=20",): ("protocol.knn.k=20", "[10,20"),
    ("--protocol.knn.k=[0]",): ("protocol.knn.k=[0]", "more than 0"),
    ("--protocol.knn.kk=[20]",): ("no setting", "protocol.knn.k"),
    ("--protocol.baselines.classifiers=[svn]",): ("protocol.baselines.classifiers=svn", "random forest"),
    ("--protocol.labels.shares=[1.5]",): ("protocol.labels.shares", "less than 1"),
    ("--data=folder",): ("data=folder needs data.root",),
    ("--epochs=3",): ("no setting 'epochs'",),
    ("--data=synthetic", "+data.labels=none"): ("data=synthetic has no labels", "sub-folders"),
    ("--data=synthetic", "+data.validation=0"): ("data.validation=0", "chosen on"),
    ("--device=tpu",): ("device=tpu", "cuda"),
}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_wrong_settings(encoder, tmp_path, words):
    first = [] if words[0].startswith("--encoder") else [f"--encoder={encoder}"]
    ended = run(*first, *words, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs", module=MODULE)
    assert ended.code == 2, ended.err
    assert all(part in ended.line for part in WORDS[words]), ended.line
    assert not (tmp_path / "run").exists()


def test_without_an_encoder_the_newest_is_named(tmp_path, monkeypatch):
    path = tmp_path / "runs" / "some" / "encoder.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"encoder=…: .* runs/some/encoder.safetensors"):
        evaluate.check(cli.compose(TOOL, []))


def images(root, counts: dict[str, int]) -> str:
    for name, count in counts.items():
        for i in range(count):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([len(name), ord(name[-1]), i])
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    return str(root)


@pytest.mark.parametrize(("counts", "message"), [
    ({"train/a": 30, "val/a": 5, "test/a": 5}, "two or more sub-folders"),
    ({"a": 1}, "no labels"),
    ({"flat": 20}, "no labels"),
    ({"train/a": 20, "train/b": 20, "test/a": 5, "test/c": 5}, "no class of train"),
])
def test_folders_that_cannot_be_evaluated(encoder, tmp_path, counts, message):
    root = images(tmp_path / "images", counts)
    ended = run(f"--encoder={encoder}", "--data=folder", f"--data.root={root}", f"--out={tmp_path / 'run'}", *QUICK,
                logs=tmp_path / "logs", module=MODULE)
    assert (ended.code, message in ended.line) == (2, True), ended.err


def test_a_single_class_is_refused():
    data = datasets.load("digits")
    data.train.labels.zero_()
    with pytest.raises(ValueError, match="single class"):
        check_labels(data, "digits")


@pytest.mark.parametrize(("words", "why"), [
    (["early_stop=3"], "early_stop=3 needs validation images"),
    (["schedule.name=plateau"], "schedule.name=plateau needs"),
    ([], None),
])
def test_settings_that_read_validation_accuracy_need_validation_images(words, why):
    data = datasets.load("digits", validation=0.0)
    settings = cli.compose(finetune.TOOL, words)
    if why is None:
        check_validation(data, settings)
    else:
        with pytest.raises(ValueError, match=why):
            check_validation(data, settings)


@pytest.mark.long
def test_a_class_that_validation_lacks_is_noted_and_counted(encoder, tmp_path):
    root = images(tmp_path / "images", {"train/a": 30, "train/b": 30, "train/c": 30, "val/a": 9, "val/b": 9, "test/a": 9,
                                        "test/b": 9, "test/c": 9})
    ended = run(f"--encoder={encoder}", "--data=folder", f"--data.root={root}", f"--out={tmp_path / 'run'}",
                "--parts=[knn,linear,logistic,ridge]", "--cache=none", *QUICK, logs=tmp_path / "logs", module=MODULE)
    assert ended.code == 0, ended.err
    kept = results(tmp_path / "run")
    assert kept["data"]["classes"] == ["a", "b", "c"]
    assert any("no validation image of c" in note for note in kept["notes"])


def test_parts_are_known():
    assert {*cli.compose(TOOL, ["encoder=small"]).parts} == {*PARTS} - {"finetune"}


@pytest.mark.parametrize(("parts", "shares"), [
    ("finetune,labels", [1.0, 0.1, 0.01]), ("finetune", [1.0]), ("finetune_all,labels", [1.0]), ("labels", []),
])
def test_what_is_fine_tuned(parts, shares):
    settings = cli.compose(TOOL, ["encoder=small", "pretrained=true", f"parts=[{parts}]"])
    found = list(finetunings(settings, World(0, 1, 0, 1, torch.device("cpu")), datasets.load("digits")))
    assert [(one.source, one.labels) for one in found] == [(s, share) for share in shares for s in ("encoder", "from scratch")]
    assert all(one.steps == 300 for one in found)
