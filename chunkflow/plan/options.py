"""What a pipeline says of its input and its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chunkflow.errors import ConfigError, UsageError, nearest
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.pyramid import PyramidMode
from chunkflow.storage.layout import ZSTD_LEVEL

ZSTD_LEVELS = 22

EXACT_FLOAT = 2**53
"""Whole numbers up to here are floats without loss; larger ones, as labels of 64 bits have, stay what they are."""

SAVED = ("image", "probability", "classes", "mask", "labels", "skeleton")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What is read, and how.

    path : OME-Zarr image
    kind : "image"; "mask": non-zero is foreground, starts at label; "labels": ids are kept, starts at skeleton
    channel, time, level : which one, by number (channels by name too); time "all" is every one, as a batch
    voxel_um : z, y, x, instead of what the image says
    nodata : voxels of this value hold no data
    mask : OME-Zarr image or TIFF stack of the same shape; only its non-zero voxels are used
    missing : "auto" reads missing chunks as zeros and counts them, "fail" refuses them
    nan : "fail" sets blocks with NaN or infinity aside, "zero" reads them as 0
    region : a part of it, z,y,x in voxels "10:60,0:256,:" or micrometers "10-15um,0-25um,:" (see `geometry.region`)
    statistics_from : result of a run of the whole volume that lends a region its thresholds (see `plan.region`)
    expansion : how many times the specimen was swollen (expansion microscopy). Optics are computed in um as the
        microscope saw them; all else, parameters and results, is in um of the specimen, that is um / expansion
    """

    path: str | None = None
    kind: Literal["image", "mask", "labels"] = "image"
    channel: int | str | None = None
    time: int | Literal["all"] | None = None
    level: int = 0
    voxel_um: MicrometerTriple | None = None
    nodata: int | float | None = None
    mask: str | None = None
    missing: Literal["auto", "fail"] = "auto"
    nan: Literal["fail", "zero"] = "fail"
    region: str | None = None
    statistics_from: str | None = None
    expansion: float = 1.0

    def __post_init__(self) -> None:
        check_parameters(self, "input")
        if isinstance(self.nodata, int) and abs(self.nodata) <= EXACT_FLOAT:
            object.__setattr__(self, "nodata", float(self.nodata))  # 45 and 45.0 are one value and one fingerprint
        if self.voxel_um is not None and min(self.voxel_um) <= 0:
            raise ConfigError(f"input: voxel_um {list(self.voxel_um)} is not positive", "Give micrometers of z, y, x")
        if self.expansion <= 0:
            raise ConfigError(f"input: expansion {self.expansion} is not positive", "Give the factor, for example 4.1")
        if self.statistics_from is not None and self.region is None:
            raise ConfigError(
                f"input: statistics_from {self.statistics_from} without a region", "Give a region, or leave it out"
            )

    @property
    def time_point(self) -> int | None:
        """The one that is read.

        Raises
        ------
        UsageError : all of them are to be.
        """
        if self.time == "all":
            raise UsageError("time all makes a run of every time point", "Use chunkflow run, or name one with time: N")
        return self.time


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What is written, and how.

    path : folder of the result
    save : arrays to keep, of image, probability, classes, mask, labels, skeleton
    format : OME-Zarr "0.5" (sharded) or "0.4"
    shard, chunk : voxels per file and per read; blocks must then be multiples
    dtype : of the image, "float32" or "uint16"; by default what the stage that makes it says. deconvolve scales to
        integers (its `dtype` and `scale`), others have fractions; where no stage makes an image it is the input's
    compression : level of zstd, 1 (quick) to 22 (small)
    pyramid : "auto"; "xy": never coarser in z; "none"
    scratch : "keep" leaves temporary arrays for later changes, until `chunkflow clean`; "drop" deletes each after the
        last pass that reads it
    """

    path: str | None = None
    save: tuple[str, ...] = ("image", "labels", "skeleton")
    format: Literal["0.4", "0.5"] = "0.5"
    shard: Triple | None = None
    chunk: Triple | None = None
    dtype: Literal["float32", "uint16"] | None = None
    compression: int = ZSTD_LEVEL
    pyramid: PyramidMode = "auto"
    scratch: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        check_parameters(self, "output")
        for name in self.save:
            if name not in SAVED:
                raise ConfigError(f"output: save names {name!r}, which is no array", nearest(name, SAVED))
        for key in ("shard", "chunk"):
            value = getattr(self, key)
            if value is not None and min(value) < 1:
                raise ConfigError(f"output: {key} {list(value)} is not positive", "Give voxels for z, y, x")
        if not 1 <= self.compression <= ZSTD_LEVELS:
            raise ConfigError(
                f"output: compression {self.compression} is no level of zstd",
                f"Give 1 (quick) to {ZSTD_LEVELS} (small)",
            )
        if self.dtype is not None and "image" not in self.save:
            raise ConfigError(
                f"output: dtype {self.dtype} is of the image, which save leaves out",
                "Save the image, or leave dtype out",
            )
        if self.shard and self.format == "0.4":
            raise ConfigError("output: shard is given, but OME-Zarr 0.4 has no shards", "Give chunk, or format 0.5")
