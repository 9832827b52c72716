"""Paired measurements: both sides in one run, a ratio with its spread."""
