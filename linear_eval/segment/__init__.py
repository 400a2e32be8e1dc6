"""Fine-tuning for segmentation: an encoder with a decoder, trained on masks."""
