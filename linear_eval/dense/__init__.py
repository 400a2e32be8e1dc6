"""Dense evaluation: what an encoder's patches know, measured by segmentation."""
