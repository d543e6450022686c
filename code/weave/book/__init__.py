"""Holds all notes and results, and says what is wrong: claims that do not hold, links that lead nowhere."""
