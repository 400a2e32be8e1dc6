"""How far two outputs lie apart. What is not finite, or of another shape, is different: never by zero. No torch here."""
import numpy as np

CLOSE = 1e-4  # by how much an output may differ, relative to the largest


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference, relative to the largest expected value; inf where it cannot be told."""
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    apart = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    return apart / largest if largest else (float("inf") if apart else 0.0)


def reason(error: Exception) -> str:
    """An exception of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".removesuffix(": ")
