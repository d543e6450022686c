"""The runs behind the committed files, one file per family: model, data, loss and what to keep."""
