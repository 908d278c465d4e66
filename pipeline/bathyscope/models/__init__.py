"""Loading, hook points, capture and splice of models."""
