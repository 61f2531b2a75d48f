"""Tidegate: a reverse proxy that splits, measures and shuts by itself."""

__version__ = "0.1.0"
