"""Values and decisions: no file, socket, clock, random number or log line in here."""
