"""Projections of the database into files."""
