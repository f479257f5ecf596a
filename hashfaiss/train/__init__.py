"""Learning: data sets and splits, losses by method, the trainer."""
