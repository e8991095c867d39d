"""One three-dimensional array on disk, read and written box by box.

A Volume is the z, y, x view of one array of an OME-Zarr image at one channel and time point. zarr clips a write that
overhangs, fills what is missing and forgets on opening that empty chunks are to be written; so bounds, shape, type and
alignment are checked here, and every opening goes through `open_array`. Every array written carries checksums: of 150
flipped bits the default codecs pass 142 as data, a zstd checksum passes none.

An *absent* file still reads as the fill value: existence is checked with `objects_of`, `object_sizes` and
`missing_chunks`, against what the journal says was written. Local file systems only for now.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.errors import ContainsArrayError
from zarr.storage import LocalStore

from chunkflow.errors import InputError, InputNotFoundError, IntegrityError, PlanError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import Scale
from chunkflow.storage.files import disk_full_reported, object_sizes
from chunkflow.storage.layout import ArrayLayout, check_aligned, file_positions, layout_for_core, objects_of
from chunkflow.storage.optics import Optics
from chunkflow.storage.shards import shard_reader

__all__ = [
    "ArrayLayout",
    "Volume",
    "create_array",
    "layout_for_core",
    "local_path",
    "missing_chunks",
    "object_sizes",
    "objects_of",
    "open_array",
    "open_store",
]

_ZSTD_LEVEL = 3
_ZSTD_2: dict[str, Any] = {"id": "zstd", "level": _ZSTD_LEVEL, "checksum": True}
_WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}

Index: TypeAlias = int | slice


def local_path(location: str | Path) -> Path:
    """The folder that a location names.

    Raises
    ------
    InputError : for a URL, which cannot be opened yet.
    """
    text = str(location).removeprefix("file://")
    if "://" in text:
        raise InputError(
            f"{location} is a URL; only local folders can be opened", "Copy or mount it, and give its path"
        )
    return Path(text)


def open_store(location: str | Path, *, read_only: bool = True) -> LocalStore:
    """The zarr store at a location: the one place that decides what kinds of location there are."""
    return LocalStore(local_path(location), read_only=read_only)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """The z, y, x view of an array at one position along its other axes. Pickles as its location, and re-opens."""

    array: zarr.Array[Any]
    """The zarr array, with all its axes."""
    path: str
    """Folder of the array (not of the image around it)."""
    axes: str
    """One letter per axis of the array, of t, c, z, y, x."""
    at: tuple[int, ...]
    """Position along the axes other than z, y, x, in their order."""
    scale: Scale
    channel: str = ""
    """Name of the channel chosen, empty where it has none. Filled on opening an image, and not pickled."""
    optics: Optics = field(default_factory=dict)
    """What the image says of the optics of that channel (see `storage.optics`). As `channel`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.scale, self.axes, self.at, self.array.read_only)

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x; a plane has one along z."""
        return self._spatial(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels in the byte order of this machine, whatever the file's."""
        return np.dtype(self.array.dtype).newbyteorder("=")

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box.of_shape(self.shape)

    @property
    def layout(self) -> ArrayLayout:
        """Shape, type and files of the z, y, x view; `leading` tells the other axes of the array."""
        shards = self.array.shards
        return ArrayLayout(
            self.shape,
            self.dtype.name,
            self._spatial(self.array.chunks),
            None if shards is None else self._spatial(shards),
            self.array.metadata.zarr_format,
            tuple(n for n, letter in zip(self.array.shape, self.axes, strict=True) if letter not in "zyx"),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, shape `box.shape`. Absent files read as the fill value.

        Raises
        ------
        InputError : if the box is not inside the volume.
        IntegrityError : if a file is damaged.
        """
        if not self.box.contains(box):
            raise InputError(f"box {box} reaches outside the volume of shape {self.shape}", "Clip it to the volume")
        if box.size == 0:
            return np.zeros(box.shape, self.dtype)
        reader = None if self.at or self.axes != "zyx" else shard_reader(self.array, self.path)
        try:
            if reader is not None:
                return reader.read(box)
            stored = np.asarray(self.array[self._selection(box)])
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # codecs raise whatever they like, RuntimeError and ValueError among them
            damaged = "The file is damaged: restore it, or compute it again"
            remedy = "Check the disk and the permissions" if isinstance(error, OSError) else damaged
            raise IntegrityError(f"voxels {box} of {self.path} cannot be read ({error})", remedy) from error
        return self._to_zyx(stored).astype(self.dtype, copy=False)

    def write(self, box: Box, data: NDArray[Any]) -> None:
        """Store `data` in `box`. Writing the same data again, also over damaged files, leaves the same bytes.

        Raises
        ------
        PlanError : if the box leaves the volume or cuts through a file, or shape or dtype of `data` differ.
        DiskFullError : if no space is left.
        """
        check_aligned(self.layout, box)
        self._check_leading()
        if data.shape != box.shape or data.dtype != self.dtype:
            raise PlanError(
                f"data of shape {data.shape} and type {data.dtype} do not fit box {box} of a {self.dtype} volume",
                "Write the shape and type that the layout names",
            )
        stored = self._from_zyx(data)
        with disk_full_reported(self.path):
            try:
                self.array[self._selection(box)] = stored
            except OSError:
                raise
            except Exception:  # zarr reads a shard before it replaces it, and a damaged one cannot be read
                self._remove_files(box)
                self.array[self._selection(box)] = stored

    def __getitem__(self, key: Index | tuple[Index, ...] | Any) -> NDArray[Any]:
        """Basic numpy indexing along z, y, x: integers, slices and an Ellipsis."""
        return _read_indexed(self, key)

    def _check_leading(self) -> None:
        lengths = self.array.shards or self.array.chunks
        for letter, length, size in zip(self.axes, lengths, self.array.shape, strict=True):
            if letter not in "zyx" and min(length, size) > 1:
                raise PlanError(f"a file of {self.path} spans {length} positions along {letter}", "Use chunks of one")

    def _remove_files(self, box: Box) -> None:
        for position in file_positions(self.layout.write_unit, box):
            Path(self.path, _key(self, position)).unlink(missing_ok=True)

    def _selection(self, box: Box) -> tuple[Index, ...]:
        slices = dict(zip("zyx", box.slices, strict=True))
        fixed = iter(self.at)
        return tuple(slices[letter] if letter in slices else next(fixed) for letter in self.axes)

    def _spatial(self, values: tuple[int, ...]) -> Triple:
        of = dict(zip(self.axes, values, strict=True))
        return of.get("z", 1), of["y"], of["x"]

    @property
    def _stored_order(self) -> str:
        return "".join(letter for letter in self.axes if letter in "zyx")

    def _to_zyx(self, stored: NDArray[Any]) -> NDArray[Any]:
        order = self._stored_order
        ordered = stored.transpose([order.index(letter) for letter in "zyx" if letter in order])
        return np.ascontiguousarray(ordered if "z" in order else ordered[None])

    def _from_zyx(self, data: NDArray[Any]) -> NDArray[Any]:
        order = self._stored_order
        kept, known = (data, "zyx") if "z" in order else (data[0], "yx")
        return kept.transpose([known.index(letter) for letter in order])


def open_array(
    path: str | Path, scale: Scale, *, axes: str | None = "zyx", at: tuple[int, ...] = (), read_only: bool = False
) -> Volume:
    """Open one array folder as a Volume.

    Parameters
    ----------
    axes : one letter per axis of the array, of t, c, z, y, x; None for (z, y, x) or (y, x), as many as there are.
    at : position along the axes other than z, y, x.

    Raises
    ------
    InputNotFoundError : if there is no such array.
    InputError : if its axes are not those named.
    """
    folder = local_path(path)
    if not any((folder / name).is_file() for name in ("zarr.json", ".zarray")):
        raise InputNotFoundError(f"{path} is not a zarr array", "Check the path")
    try:
        array = zarr.open_array(open_store(folder, read_only=read_only), mode="r" if read_only else "r+")
    except Exception as error:  # zarr raises ValueError, KeyError and its own kinds for metadata it cannot use
        raise InputError(f"{path} cannot be opened as a zarr array ({error})", "Check its metadata") from error
    if axes is None:
        axes = "zyx"[-array.ndim :] if array.ndim in (2, 3) else ""
    if array.ndim != len(axes):
        named = f"{len(axes)} are named ({axes})" if axes else "none are named"
        raise InputError(f"{path} has {array.ndim} axes and {named}", "Name each with one letter of t, c, z, y, x")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds values of type {array.dtype}", "Store integers or floats")
    return Volume(array.with_config(_WRITE_ALL), str(folder), axes, at, scale)


def _reopen(path: str, scale: Scale, axes: str, at: tuple[int, ...], read_only: bool) -> Volume:
    return open_array(path, scale, axes=axes, at=at, read_only=read_only)


def create_array(path: str | Path, layout: ArrayLayout, scale: Scale, *, axes: str = "zyx") -> Volume:
    """Create an array of zeros that holds no file yet, or open the one that is there.

    Any number of processes may call this for one path at once: the metadata they write are the same bytes.

    Raises
    ------
    UsageError : if an array of another layout is there.
    """
    folder = local_path(path)
    with disk_full_reported(folder), suppress(ContainsArrayError):  # of an earlier run, or another process just now
        _create(folder, layout, axes)
    found = open_array(folder, scale, axes=axes, at=(0,) * len(layout.leading))
    if found.layout != layout:
        raise UsageError(f"{path} holds an array of another layout ({found.layout})", "Write to a fresh output")
    return found


def _create(folder: Path, layout: ArrayLayout, axes: str) -> None:
    ones = (1,) * len(layout.leading)
    common: dict[str, Any] = {
        "shape": layout.full_shape,
        "dtype": layout.dtype,
        "chunks": (*ones, *layout.chunk),
        "fill_value": 0,
        "config": _WRITE_ALL,
    }
    store = open_store(folder, read_only=False)
    if layout.zarr_format == 2:
        zarr.create_array(
            store,
            zarr_format=2,
            compressors=_ZSTD_2,
            chunk_key_encoding={"name": "v2", "separator": "/"},
            **common,
        )
        return
    zarr.create_array(
        store,
        zarr_format=3,
        shards=(*ones, *layout.shard) if layout.shard else None,  # the index of a shard carries a crc32c by default
        compressors=[ZstdCodec(level=_ZSTD_LEVEL, checksum=True)],
        dimension_names=tuple(axes),
        **common,
    )


def missing_chunks(volume: Volume) -> int:
    """How many files of the volume (at its channel and time) are absent or empty: their voxels read as fill."""
    names = [_key(volume, position) for position in file_positions(volume.layout.write_unit, volume.box)]
    return sum(not size for size in object_sizes(volume.path, names))


def _key(volume: Volume, position: Triple) -> str:
    """Name of the file at a grid position, in whatever way the array encodes it."""
    spatial = dict(zip("zyx", position, strict=True))
    lengths = volume.array.shards or volume.array.chunks
    fixed = iter(volume.at)
    grid = tuple(
        spatial[letter] if letter in spatial else next(fixed) // length
        for letter, length in zip(volume.axes, lengths, strict=True)
    )
    return str(volume.array.metadata.encode_chunk_key(grid))


def _read_indexed(volume: Volume, key: Any) -> NDArray[Any]:
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        gap = keys.index(Ellipsis)
        keys[gap : gap + 1] = [slice(None)] * (4 - len(keys))
    keys += [slice(None)] * (3 - len(keys))
    if len(keys) != 3:
        raise IndexError(f"{len(keys)} indices for the three axes z, y, x")
    start, stop, steps = [], [], []
    for value, length in zip(keys, volume.shape, strict=True):
        low, high, step = _span(value, length)
        start.append(low)
        stop.append(high)
        steps.append(step)
    data = volume.read(Box(triple(tuple(start)), triple(tuple(stop))))
    return data[tuple(steps)]


def _span(value: Any, length: int) -> tuple[int, int, Index]:
    """Voxels to read along one axis, and what to take of them: an integer drops the axis."""
    if isinstance(value, slice):
        if value.step not in (None, 1):
            raise IndexError(f"a step of {value.step} in a slice: read first, then take every n-th")
        low, high, _ = value.indices(length)
        return low, max(low, high), slice(None)
    position = range(length)[value]
    return position, position + 1, 0
