"""Images and their classifiers."""
