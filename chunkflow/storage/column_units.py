"""Units of columns, which stand at the end of their names. Apart from tables, so that workers need no pandas."""

UNITS = {"um": "um", "um2": "um^2", "um3": "um^3", "vox": "voxel"}
"""By the last word of a column's name."""
