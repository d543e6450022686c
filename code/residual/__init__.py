"""A small transformer library: every tensor has the name that the papers give it."""
