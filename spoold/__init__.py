"""spoold: a file-drop mail agent."""

__version__ = "0.1.0"
