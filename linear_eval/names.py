"""Scores in files by today's names. No torch here."""
from typing import Any


def renamed(content: Any) -> Any:
    """What a JSON file holds, with the scores in it by today's names: `frozen_scores` once called "logistic" "linear".

    Only beside kNN, so that the linear heads of linear_eval.evaluate keep their name.
    """
    if isinstance(content, dict):
        old = "linear" in content and "knn" in content and not isinstance(content["linear"], list)
        return {"logistic" if old and name == "linear" else name: renamed(value) for name, value in content.items()}
    return [renamed(value) for value in content] if isinstance(content, list) else content
