"""Boxes, grids of blocks and physical scale: the coordinates every other module passes around."""
