"""`logistic` is logistic regression and `linear` are the evaluation's linear heads, in new files and in those of before."""
import json

import pytest
import torch
from commands import ROOT

from experiments.results import lookup
from linear_eval.names import renamed
from linear_eval.probe import frozen_scores

KEPT = ("family/fashion_mnist.json", "first_run/simclr-digits.json", "search/first.json", "label_efficiency/fashion_mnist.json")


def test_frozen_scores_name_the_probe_that_they_run():
    x, labels = torch.randn(60, 4), torch.arange(60) % 3
    assert list(frozen_scores(x, labels, x, labels, 3)) == ["knn", "logistic", "five_labels", "five_labels_std"]


def test_scores_of_before_are_read_by_todays_names_and_keep_their_order():
    before = {"pretrained": {"knn": 1.0, "linear": 2.0, "five_labels": 3.0}, "rows": [{"knn": 4.0, "linear": 5.0}]}
    assert renamed(before) == {
        "pretrained": {"knn": 1.0, "logistic": 2.0, "five_labels": 3.0}, "rows": [{"knn": 4.0, "logistic": 5.0}],
    }
    assert list(renamed(before)["pretrained"]) == ["knn", "logistic", "five_labels"]
    assert renamed(renamed(before)) == renamed(before)


def test_linear_heads_stay_linear():
    """results.json of an evaluation names them by a value, a protocol by settings, a search by nothing beside it."""
    document = json.loads((ROOT / "experiments" / "evaluation" / "fashion_mnist.json").read_text())
    assert renamed(document) == document
    assert renamed({"linear": {"rates": [0.1]}}) == {"linear": {"rates": [0.1]}}


def walked(tree, path: str = "") -> dict[str, object]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = {name: value for key, part in pairs for name, value in walked(part, f"{path}/{key}").items()}
    return below or {path: tree}


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_file_of_before_keeps_every_figure(name):
    document = json.loads((ROOT / "experiments" / name).read_text())
    before, after = walked(document), walked(renamed(document))
    assert list(before.values()) == list(after.values())
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert moved
    assert all("/linear" in old for old in moved)


def test_a_table_finds_either_name():
    scores = {"pretrained": {"knn": 1.0, "logistic": 2.0}}
    assert lookup(scores, "pretrained.logistic") == lookup(scores, "pretrained.linear") == [2.0]
    with pytest.raises(ValueError, match="there is no linear"):
        lookup({"pretrained": {"knn": 1.0}}, "pretrained.linear")
