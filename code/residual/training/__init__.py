"""The training loop and its data. Nothing here knows a transformer."""
