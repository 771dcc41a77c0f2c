"""The commands, and the one place where the parts are built and joined."""
