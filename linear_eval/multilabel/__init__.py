"""Evaluation where an image may have several labels: protocols one class against the rest, and average precision."""
