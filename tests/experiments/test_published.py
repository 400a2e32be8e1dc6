"""Published figures: our kNN is scikit-learn's, a done cell is not run again, and what is kept says what it is."""
import json
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from experiments import published
from experiments.published import CLAIMS, KEPT, Split


def tiny(number: int = 300) -> Split:
    """Few grey levels, so that distances tie; the first ten test images are training images too."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (number + 60,), generator=generator)
    images = torch.randint(4, (number + 60, 1, 28, 28), generator=generator) * 20
    images[:, :, :14] += labels.view(-1, 1, 1, 1) * 6
    images = images.to(torch.uint8)
    images[number : number + 10], labels[number : number + 10] = images[:10], labels[:10]
    return Split(images[:number], labels[:number].numpy(), images[number:], labels[number:].numpy())


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["published", *words])
    return published.main()


def test_nearest_neighbours_vote_as_scikit_learns():
    split = tiny()
    train, test = split.standardised()
    peer = KNeighborsClassifier(5, p=1, weights="distance").fit(train, split.train_labels)
    ours = published.nearest(split)
    assert np.array_equal(ours, peer.predict(test))
    assert (ours[:10] == split.test_labels[:10]).all()  # an image of train decides alone
    assert 0.2 < (ours[10:] == split.test_labels[10:]).mean() < 1


def test_a_difference_from_scikit_learn_stops_the_run(monkeypatch):
    monkeypatch.setattr(published.faiss, "METRIC_L1", published.faiss.METRIC_L2)
    with pytest.raises(AssertionError, match="faiss and scikit-learn differ"):
        published.nearest(tiny())


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.json"
    monkeypatch.setattr(published, "official", lambda quick: tiny())
    ran = []
    measure = published.measure
    monkeypatch.setattr(published, "measure", lambda claim, split: ran.append(claim.name) or measure(claim, split))
    assert run(monkeypatch, "--quick", "--only", "kNN", "HOG + SVM", "--kept", str(path)) == 1  # not the published figures
    assert ran == ["kNN", "HOG + SVM"]
    run(monkeypatch, "--quick", "--only", "kNN", "random forest", "--kept", str(path))
    assert ran[2:] == ["random forest"]
    document = json.loads(path.read_text())
    assert list(document["cells"]) == ["kNN", "random forest", "HOG + SVM"]  # the order of CLAIMS
    assert "| kNN | 85.4 | " in path.with_suffix(".md").read_text()
    document["cells"]["kNN"]["setting"] = "of yesterday"
    path.write_text(json.dumps(document))
    run(monkeypatch, "--quick", "--only", "kNN", "--kept", str(path))
    assert ran[3:] == ["kNN"]
    monkeypatch.setattr(published, "official", lambda quick: tiny(200))  # other images, other figures
    run(monkeypatch, "--quick", "--only", "kNN", "--kept", str(path))
    assert ran[4:] == ["kNN"]


@pytest.mark.parametrize(("words", "message"), [
    (["--quick"], "--quick figures mean nothing"),
    (["--only", "knn"], "--only knn: there are kNN, "),
])
def test_mistakes_are_one_line(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert message in capsys.readouterr().err


def test_what_the_repository_keeps_is_of_all_images_and_says_the_truth():
    cells = json.loads(KEPT.read_text())["cells"]
    assert set(cells) <= {claim.name for claim in CLAIMS}
    for cell in cells.values():
        assert cell["images"] == [60_000, 10_000]
        assert cell["within"] == (round(abs(cell["measured"] - cell["published"]), 2) <= cell["tolerance"])
        assert "--quick" not in cell["command"]
    assert KEPT.with_suffix(".md").read_text() == published.table(published.ordered(cells))
