"""Fine-tuning for segmentation: an encoder with a decoder, trained on masks."""
from linear_eval.segment.settings import TOOL

__all__ = ["TOOL"]
