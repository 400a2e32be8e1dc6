"""How a run runs; knows nothing of images."""
