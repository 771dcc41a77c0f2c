"""`python -m spoold` is the same as `spoold`."""

from spoold.cli.main import entry

if __name__ == "__main__":
    entry()
