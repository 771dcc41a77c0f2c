"""Measurements, side by side with peers in one run, told as ratios: `python -m tests.bench [--quick|--full] [ROW…]`."""
