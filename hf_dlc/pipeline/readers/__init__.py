"""Files of rows, as they really come."""
