"""The training loop and its data. Nothing here depends on the transformer."""
