"""The running parts: what watches, takes, sends, records and stops."""
