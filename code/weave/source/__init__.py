"""Reads the repository: where things lie, Markdown, front matter, names, and the shape of a problem."""
