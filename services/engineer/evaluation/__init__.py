"""Scores of trained candidates, computed outside their process: held-out loss, look-ahead detection, benchmarks."""
