"""The whole of what tests/integration/test_plant.py samples: `python -m tests.plant`, as root, for hours."""
