"""Dense evaluation: what frozen patch features know of the places in an image."""
