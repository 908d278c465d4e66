"""Hydra values: one folder per group, mirrored by the dataclasses in `bathyscope.config`."""
