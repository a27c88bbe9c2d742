"""What a score means: NumPy only."""
