"""Proof: what a frozen encoder's features are worth."""
