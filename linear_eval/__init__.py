"""Evaluation: how good an encoder is, frozen and fine-tuned."""
