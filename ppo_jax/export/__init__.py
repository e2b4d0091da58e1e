"""Writes a trained policy in formats that run elsewhere, most of them without JAX."""
