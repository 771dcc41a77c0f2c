"""What survives: files, folders and the database."""
