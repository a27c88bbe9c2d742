"""Publish a pruned dataset, and get its scores back."""
