"""The runs behind the committed files: model, data, loss and what to keep, a file for each family."""
