"""Shows the book to its author while it changes."""
