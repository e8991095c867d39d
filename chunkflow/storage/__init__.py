"""Volumes, metadata and tables on disk: OME-Zarr in and out, TIFF in, Parquet and CSV out. The only zarr."""
