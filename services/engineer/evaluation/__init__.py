"""Scoring trained candidates from outside their process: held-out loss, look-ahead comparison, lm-eval benchmarks."""
