"""One file, one paper; its yaml beside it."""
from core.method import check_positive


def pairs(views: int, targets: int = 2) -> list[tuple[int, int]]:
    """(target view, predicting view): each of the first `targets` views with every other one.

    Two views: (0,1), (1,0). With local crops (SwAV, arXiv 2006.09882, §3.3) those predict too and are never targets.
    """
    return [(target, view) for target in range(targets) for view in range(views) if view != target]


def unordered_pairs(views: int, targets: int = 2) -> list[tuple[int, int]]:
    """The same for a loss that does not tell target from prediction: each pair once."""
    return [(a, b) for a, b in pairs(views, targets) if a < b]


def check_constants(temperature: float = 1.0, momentum: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse constants that no paper means.  Raises ValueError naming the setting."""
    check_positive(temperature=temperature)
    if len(momentum) != 2 or not all(0 <= m <= 1 for m in momentum):
        raise ValueError(f"method.momentum={list(momentum)}: must be [start,end], both from 0 to 1")
