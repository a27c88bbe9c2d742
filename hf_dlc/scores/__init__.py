"""Scores: their table, their meaning and their columns, in NumPy only."""
