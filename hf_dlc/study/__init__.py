"""Does it help? Models trained on chosen rows against models trained on random rows, and what scoring costs."""
