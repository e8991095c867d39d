"""Synthetic volumes with a known truth: tube networks, simple shapes, and the optics that blur them. Arrays only."""
