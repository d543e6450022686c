"""Executes notebooks, checks the numbers in the notes against them, and weaves both into pages."""

from weave.publish import claim

__all__ = ["claim"]
