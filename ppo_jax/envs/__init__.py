"""Environments of this library's own."""
