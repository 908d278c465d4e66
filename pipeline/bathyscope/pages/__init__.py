"""Static pages that open from disk without a network."""
