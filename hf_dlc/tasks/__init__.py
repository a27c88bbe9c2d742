"""What a row means to a model."""
