"""`DLCScorer`, the face of it all, and the rooms behind it."""
