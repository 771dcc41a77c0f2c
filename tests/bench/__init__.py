"""Measurements: run by hand, side by side in one run, told as ratios. `python -m tests.bench.NAME`."""
