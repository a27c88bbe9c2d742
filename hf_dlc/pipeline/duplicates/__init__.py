"""Duplicates: how rows are read, and three ways to find those that say the same."""
