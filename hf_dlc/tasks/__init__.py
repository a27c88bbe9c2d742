"""Tasks: how rows are encoded for a model, and what its forward pass measures."""
