"""The tools of the notes, one file each. A method takes a model and tokens and returns tensors; it trains nothing."""
