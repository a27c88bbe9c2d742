"""Prune and score as one run in a folder."""
