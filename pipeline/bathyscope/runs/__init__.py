"""A run folder and its artifacts."""
