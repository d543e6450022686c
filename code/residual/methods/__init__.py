"""A file for each tool of the notes. A method takes a model and tokens and returns tensors; it trains nothing."""
