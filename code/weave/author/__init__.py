"""Writes files: the author's commands."""
