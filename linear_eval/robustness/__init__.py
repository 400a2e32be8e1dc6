"""How well an encoder's features stand corrupted images, and another data set of the same classes."""
from linear_eval.robustness.settings import TOOL

__all__ = ["TOOL"]
