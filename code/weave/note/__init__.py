"""Turns one note into HTML and a list of facts: claims, theorems, links, citations, formulas, figures."""
