"""Published figures: our kNN is scikit-learn's, and the table's claims are those of the kept figures."""
import json

import numpy as np
import pytest
import torch
from commands import ROOT
from sklearn.neighbors import KNeighborsClassifier

from experiments import published
from experiments.provenance import Provenance
from experiments.published import Split
from experiments.render import markdown
from experiments.results import Column, Published, ResultRow, TableResult
from experiments.table_file import load

KEPT = ROOT / "experiments" / "published" / "fashion_mnist.json"


def tiny(number: int = 300) -> Split:
    """Few grey levels, so that distances tie; the first ten test images are training images too."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (number + 60,), generator=generator)
    images = torch.randint(4, (number + 60, 1, 28, 28), generator=generator) * 20
    images[:, :, :14] += labels.view(-1, 1, 1, 1) * 6
    images = images.to(torch.uint8)
    images[number : number + 10], labels[number : number + 10] = images[:10], labels[:10]
    return Split(images[:number], labels[:number].numpy(), images[number:], labels[number:].numpy())


def test_nearest_neighbours_vote_as_scikit_learns():
    split = tiny()
    train, test = split.standardized()
    peer = KNeighborsClassifier(5, p=1, weights="distance").fit(train, split.train_labels)
    ours = published.nearest(split)
    assert np.array_equal(ours, peer.predict(test))
    assert (ours[:10] == split.test_labels[:10]).all()  # an image of train decides alone
    assert 0.2 < (ours[10:] == split.test_labels[10:]).mean() < 1


def test_a_difference_from_scikit_learn_stops_the_run(monkeypatch):
    monkeypatch.setattr(published.faiss, "METRIC_L1", published.faiss.METRIC_L2)
    with pytest.raises(AssertionError, match="faiss and scikit-learn differ"):
        published.nearest(tiny())


def test_a_cell_writes_accuracy_and_numbers_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "official", lambda quick: tiny())
    for name in ("kNN", "random forest", "HOG + SVM"):
        out = tmp_path / name / "result.json"
        assert published.main(["--classifier", name, "--quick", "--out", str(out)]) == 0
        result = json.loads(out.read_text())
        assert result["images"] == [300, 60]
        assert 20 < result["accuracy"] < 100


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(SystemExit):
        published.main(["--classifier", "knn", "--out", "x.json"])
    assert "invalid choice: 'knn'" in capsys.readouterr().err


def test_a_row_that_is_out_of_tolerance_is_named():
    rows = [
        ResultRow("near", {"accuracy": [85.5]}, {"accuracy": Published(85.4, "source", 0.1)}),
        ResultRow("far", {"accuracy": [86.25]}, {"accuracy": Published(85.4, "source", 0.1)}),
        ResultRow("untold", {"accuracy": [86.25]}, {"accuracy": Published(85.4, "source")}),
    ]
    columns, provenance = {"accuracy": Column("accuracy")}, Provenance("python -m x", ("abc",), {})
    text = markdown(TableResult("t", "T", "", [0], columns, rows, {}, provenance))
    assert "far differs from the published 85.4 by more than 0.1." in text
    assert text.count("differs from") == 1


def test_the_tables_claims_are_those_of_the_kept_figures():
    """The table, the kept JSON and the kept Markdown name the same published figures and tolerances."""
    kept = json.loads(KEPT.read_text())["cells"]
    claims = {row.name: row.published["accuracy"] for row in load("fashion_mnist_baselines").rows}
    assert list(claims) == list(published.CLASSIFIERS) == list(kept)
    for name, cell in kept.items():
        assert claims[name] == Published(cell["published"], cell["source"], cell["tolerance"])
        assert cell["images"] == [60_000, 10_000]
        assert cell["within"] == (round(abs(cell["measured"] - cell["published"]), 2) <= cell["tolerance"])
        assert "--quick" not in cell["command"]
        within = "yes" if cell["within"] else "**no**"
        figures = f"{cell['published']:.1f} | {cell['measured']:.2f} | {cell['tolerance']} | {within}"
        row = f"| {name} | {figures} | {cell['seconds'] / 60:.1f} | {cell['setting']} | {cell['differs']} |"
        assert row in KEPT.with_suffix(".md").read_text().splitlines()
