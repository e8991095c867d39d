"""Looking at results in Neuroglancer and napari."""
