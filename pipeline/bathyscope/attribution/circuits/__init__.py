"""Circuits of latents: which of them, with their edges, make an output."""
