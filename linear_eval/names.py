"""Scores in older files by their current names. No torch here."""
from typing import Any


def renamed(content: Any) -> Any:
    """A JSON file's content with current names of scores: `frozen_scores` once called "logistic" "linear".

    Renamed only next to kNN, so that the linear heads of linear_eval.evaluate keep their name.
    """
    if isinstance(content, dict):
        old = "linear" in content and "knn" in content and not isinstance(content["linear"], list)
        return {"logistic" if old and name == "linear" else name: renamed(value) for name, value in content.items()}
    return [renamed(value) for value in content] if isinstance(content, list) else content
