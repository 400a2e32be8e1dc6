"""Dense evaluation: what an encoder's patches know, measured by segmentation."""
from linear_eval.dense.settings import TOOL  # noqa: F401, of `python -m linear_eval.dense`
