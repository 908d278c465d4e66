"""Documents, deduplication, split and packing."""
