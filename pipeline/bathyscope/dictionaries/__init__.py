"""Sparse dictionaries: their maths and their files."""
