"""What a run runs on: data, augmentation, encoders, and the artifact that tools exchange."""
