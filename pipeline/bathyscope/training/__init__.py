"""Trains dictionaries: losses, schedule, step and loop."""
