"""Numerics on plain arrays: no storage, no scheduler, no coordinates but those passed as numbers."""
