"""How far two outputs differ. Outputs that are not finite, or of another shape, always differ. No torch here."""
import numpy as np

TOLERANCE = 1e-4  # by how much an output may differ, relative to the largest


def difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference, relative to the largest expected value; inf where it cannot be computed."""
    if outputs.shape != expected.shape or not (np.isfinite(outputs).all() and np.isfinite(expected).all()):
        return float("inf")
    absolute = float(np.abs(outputs.astype(np.float64) - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    return absolute / largest if largest else (float("inf") if absolute else 0.0)


def reason(error: Exception) -> str:
    """An exception of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".removesuffix(": ")
