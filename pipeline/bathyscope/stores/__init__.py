"""Chunked stores: objects, segments, receipts, leases, readers."""
