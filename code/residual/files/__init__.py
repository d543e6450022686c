"""Weights in and out: checkpoints with their cards, and other formats."""
