"""One three-dimensional array on disk, read and written box by box.

A Volume is the z, y, x view of one array of an OME-Zarr image at one channel and time point. zarr clips a write that
overhangs, fills what is missing and forgets on opening that empty chunks are to be written; so bounds, shape, type and
alignment are checked here, and every opening goes through `open_array`. Every array written carries checksums: of 150
flipped bits the default codecs pass 142 as data, a zstd checksum passes none.

An *absent* file still reads as the fill value: existence is checked with `objects_of`, `object_sizes` and
`inventory.missing_chunks`, against what the journal says was written. Arrays lie in local folders or in object stores
(`storage/stores.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from chunkflow.errors import (
    InputError,
    InputNotFoundError,
    IntegrityError,
    PlanError,
    StoreError,
    UsageError,
)
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import Scale
from chunkflow.storage.files import disk_full_reported, object_sizes, remove_files, write_atomic
from chunkflow.storage.image_source import axes_remedy
from chunkflow.storage.layout import ArrayLayout, check_aligned, file_positions, layout_for_core, objects_of
from chunkflow.storage.optics import Optics
from chunkflow.storage.shard_write import write_box
from chunkflow.storage.shards import Shards, shards_of
from chunkflow.storage.stores import ObjectPath, Place, place_of
from chunkflow.storage.zarr_2 import codec, plain_metadata, with_checksums
from chunkflow.storage.zarr_store import ObjectsStore

__all__ = [
    "ArrayLayout",
    "Volume",
    "create_array",
    "file_key",
    "holds_array",
    "layout_for_core",
    "local_path",
    "object_sizes",
    "objects_of",
    "open_array",
    "open_store",
    "restore_metadata",
]

_WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}

Index: TypeAlias = int | slice


def local_path(location: str | Path) -> Path:
    """The folder that a location names, for what only reads and writes local files.

    Raises
    ------
    InputError : for a URL.
    """
    place = place_of(location)
    if isinstance(place, ObjectPath):
        raise InputError(f"{place} is a URL; only local folders will do here", "Copy or mount it, and give its path")
    return place


def open_store(location: str | Place, *, read_only: bool = True) -> LocalStore | ObjectsStore:
    """The zarr store at a location."""
    place = place_of(location)
    if isinstance(place, ObjectPath):
        return ObjectsStore(place, read_only=read_only)
    return LocalStore(place, read_only=read_only)


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
    window: Box | None = None
    """The part of the array that this is, in voxels of the array, None for all of it; only to be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.scale, self.axes, self.at, self.array.read_only, self.window)

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x; a plane has one along z."""
        return self._spatial(self.array.shape) if self.window is None else self.window.shape

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

    def cropped(self, box: Box) -> Volume:
        """The voxels of a box as a volume of its own, whose voxel 0 is the first of the box; nothing is copied.

        Raises
        ------
        InputError : if the box is not inside the volume.
        """
        if not self.box.contains(box) or box.size == 0:
            raise InputError(f"box {box} reaches outside the volume of shape {self.shape}", "Clip it to the volume")
        return replace(self, scale=self.scale.moved(box.start), window=self._in_array(box))

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, shape `box.shape`. Absent files read as the fill value.

        Raises
        ------
        InputError : if the box is not inside the volume.
        IntegrityError : if a file is damaged.
        StoreError : if an object store does not give it out; that is never read as fill.
        """
        if not self.box.contains(box):
            raise InputError(f"box {box} reaches outside the volume of shape {self.shape}", "Clip it to the volume")
        if box.size == 0:
            return np.zeros(box.shape, self.dtype)
        shards = self._shards()
        try:
            if shards is not None:
                return shards.read(self._in_array(box))
            stored = np.asarray(self.array[self._selection(self._in_array(box))])
        except (MemoryError, KeyboardInterrupt, StoreError):
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
        PlanError : if the box leaves the volume or cuts through a file, shape or dtype of `data` differ, or the
            volume is only to be read.
        DiskFullError : if no space is left.
        """
        if self.window is not None:
            raise PlanError(f"a part of {self.path} is opened, which is only to be read", "Write to the whole array")
        if self.array.read_only:
            raise PlanError(f"{self.path} is opened read-only", "Open it without read_only")
        check_aligned(self.layout, box)
        self._check_leading()
        if data.shape != box.shape or data.dtype != self.dtype:
            raise PlanError(
                f"data of shape {data.shape} and type {data.dtype} do not fit box {box} of a {self.dtype} volume",
                "Write the shape and type that the layout names",
            )
        shards = self._shards()
        stored = self._from_zyx(data)
        with disk_full_reported(self.path):
            if shards is not None:
                write_box(shards, box, data)
                return
            # Where a file reaches beyond the volume zarr keeps what is there, which may be another file's.
            self._remove_files(box, overhanging=True)
            try:
                self.array[self._selection(box)] = stored
            except (OSError, StoreError):
                raise
            except Exception:  # zarr reads a shard before it replaces it, and a damaged one cannot be read
                self._remove_files(box)
                self.array[self._selection(box)] = stored

    def __getitem__(self, key: Index | tuple[Index, ...] | Any) -> NDArray[Any]:
        """Basic numpy indexing along z, y, x: integers, slices and an Ellipsis."""
        return _read_indexed(self, key)

    def _shards(self) -> Shards | None:
        """The files, where they are such as need no zarr."""
        return None if self.at or self.axes != "zyx" else shards_of(self.array, self.path)

    def _check_leading(self) -> None:
        lengths = self.array.shards or self.array.chunks
        for letter, length, size in zip(self.axes, lengths, self.array.shape, strict=True):
            if letter not in "zyx" and min(length, size) > 1:
                raise PlanError(f"a file of {self.path} spans {length} positions along {letter}", "Use chunks of one")

    def _remove_files(self, box: Box, *, overhanging: bool = False) -> None:
        unit = self.layout.write_unit
        positions = [
            at
            for at in file_positions(unit, box)
            if not overhanging or any((p + 1) * u > n for p, u, n in zip(at, unit, self.shape, strict=True))
        ]
        remove_files(self.path, [file_key(self, position) for position in positions])

    def _in_array(self, box: Box) -> Box:
        """The same voxels in coordinates of the array."""
        return box if self.window is None else box.relative_to(triple(tuple(-n for n in self.window.start)))

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


def holds_array(folder: Place) -> bool:
    """Whether there is a zarr array."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray"))


def open_array(
    path: str | Place, scale: Scale, *, axes: str | None = "zyx", at: tuple[int, ...] = (), read_only: bool = False
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
    folder = place_of(path)
    if not holds_array(folder):
        raise InputNotFoundError(f"{path} is not a zarr array", "Check the path")
    try:
        array = zarr.open_array(open_store(folder, read_only=read_only), mode="r" if read_only else "r+")
    except StoreError:
        raise
    except Exception as error:  # zarr raises ValueError, KeyError and its own kinds for metadata it cannot use
        raise InputError(f"{path} cannot be opened as a zarr array ({error})", "Check its metadata") from error
    if axes is None:
        axes = "zyx"[-array.ndim :] if array.ndim in (2, 3) else ""
    if array.ndim != len(axes):
        named = f"{len(axes)} are named ({axes})" if axes else "none are named"
        raise InputError(f"{path} has {array.ndim} axes and {named}", axes_remedy(array.ndim))
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds values of type {array.dtype}", "Store integers or floats")
    array = array.with_config(_WRITE_ALL)
    return Volume(array if read_only else with_checksums(array), str(folder), axes, at, scale)


def _reopen(
    path: str, scale: Scale, axes: str, at: tuple[int, ...], read_only: bool, window: Box | None = None
) -> Volume:
    return replace(open_array(path, scale, axes=axes, at=at, read_only=read_only), window=window)


def create_array(path: str | Place, layout: ArrayLayout, scale: Scale, *, axes: str = "zyx") -> Volume:
    """Create an array of zeros that holds no file yet, or open the one that is there.

    Any number of processes may call this for one path at once: the metadata they write are the same bytes.

    Raises
    ------
    UsageError : if an array of another layout is there.
    """
    folder = place_of(path)
    with disk_full_reported(folder):
        if not holds_array(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in _metadata(layout, layout.level, axes).items():
                write_atomic(folder / name, content, durable=False)
    found = open_array(folder, scale, axes=axes, at=(0,) * len(layout.leading))
    if found.layout != layout:
        raise UsageError(f"{path} holds an array of another layout ({found.layout})", "Write to a fresh output")
    return found


def restore_metadata(path: str | Place, layout: ArrayLayout, *, axes: str = "zyx") -> None:
    """Write the metadata of an array anew where they are not what `create_array` writes: damaged, or edited."""
    name = "zarr.json" if layout.zarr_format == 3 else ".zarray"
    wanted, file = _metadata(layout, layout.level, axes)[name], place_of(path) / name
    if not file.is_file() or file.read_bytes() != wanted:
        write_atomic(file, wanted)


@lru_cache(maxsize=256)
def _metadata(layout: ArrayLayout, level: int, axes: str) -> dict[str, bytes]:
    """The files that make an array, the one by which it is known last: as zarr writes them, but see `zarr_2`.

    Kept, since asking zarr takes 3 ms, and a small image of a batch has ten arrays. `level` is the layout's, by which
    layouts are not told apart.
    """
    written: dict[str, Buffer] = {}
    _create(MemoryStore(written), layout, axes)
    files = {name: written[name].to_bytes() for name in sorted(written, reverse=True)}
    return {name: plain_metadata(content) if name == ".zarray" else content for name, content in files.items()}


def _create(store: Store, layout: ArrayLayout, axes: str) -> None:
    ones = (1,) * len(layout.leading)
    common: dict[str, Any] = {
        "shape": layout.full_shape,
        "dtype": layout.dtype,
        "chunks": (*ones, *layout.chunk),
        "fill_value": 0,
        "config": _WRITE_ALL,
    }
    if layout.zarr_format == 2:
        zarr.create_array(
            store,
            zarr_format=2,
            compressors=codec(layout.level),
            chunk_key_encoding={"name": "v2", "separator": "/"},
            **common,
        )
        return
    zarr.create_array(
        store,
        zarr_format=3,
        shards=(*ones, *layout.shard) if layout.shard else None,  # the index of a shard carries a crc32c by default
        compressors=[ZstdCodec(level=layout.level, checksum=True)],
        dimension_names=tuple(axes),
        **common,
    )


def file_key(volume: Volume, position: Triple) -> str:
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
