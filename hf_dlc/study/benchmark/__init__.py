"""What scoring costs, against what people would write themselves, in one run on one machine."""
