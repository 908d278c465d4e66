"""Nights: what is new is found, extracted, compared with earlier nights, and published."""
