"""TIFF in: one file, or the files of a stack, become an OME-Zarr image with every channel and time point.

Planes are read one at a time into a slab as deep as one file of the output, which is then written whole; a slab above
half a gigabyte lies in a temporary file. Everything is written beside the destination and renamed at the end, so a
killed import leaves no half image. Every chunk is written: a chunk that is missing later is a loss, not a background.
A bare zarr array (2-D or 3-D, or with `axes`) is imported the same way.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError, OutputInUseError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import MicrometerTriple, Scale, micrometer_triple
from chunkflow.storage.files import disk_full_reported
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.layout import LONGEST_SHARD, layout_for_core
from chunkflow.storage.omezarr import ZARR_FORMAT, Channel, Format, write_image_group
from chunkflow.storage.optics import Optics
from chunkflow.storage.tiff_image import TiffImage, read_tiff
from chunkflow.storage.volume import create_array, local_path, open_array

__all__ = ["ImportReport", "TiffImage", "import_tiff", "read_tiff"]

_LARGEST_SLAB = 1 << 29
_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found and wrote."""

    destination: Path
    files: int
    """How many files were read."""
    axes: str
    shape: tuple[int, ...]
    """Length of each of `axes`."""
    dtype: str
    voxel_um: MicrometerTriple
    """z, y, x."""
    voxel_source: str
    """Where the voxel size was found."""
    channels: tuple[str, ...]
    optics: tuple[Optics, ...]
    """What the source says of the optics of each channel (see `storage.optics`), empty where it says nothing."""


class _Source(Protocol):
    """Planes to import, as TiffImage offers them."""

    @property
    def name(self) -> str: ...
    @property
    def axes(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def voxel_um(self) -> MicrometerTriple | None: ...
    @property
    def voxel_source(self) -> str: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def optics(self) -> tuple[Optics, ...]: ...

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`."""


def import_tiff(
    sources: str | Path | Sequence[str | Path],
    destination: str | Path,
    *,
    voxel_um: Sequence[float] | None = None,
    axes: str | None = None,
    channels: Sequence[str] | None = None,
    format: Format = "0.5",
    overwrite: bool = False,
    on_plane: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Write an OME-Zarr image from TIFF, ImageJ or OME-TIFF.

    Parameters
    ----------
    sources : one file; or the single-plane files of a z stack, or the folder of them, stacked in natural name order.
    voxel_um : z, y, x, instead of what the file says.
    axes : letters of T, C, Z, Y, X for the axes of one file, instead of what it says.
    channels : names, instead of what the file says.
    overwrite : replace an image that is there. Nothing but an image is ever replaced.
    on_plane : called with planes done and planes in all.

    Raises
    ------
    InputNotFoundError, InputError : if a source cannot be read or states no voxel size.
    UsageError : if the destination is not empty.
    OutputInUseError : if another import writes the same destination.
    """
    final = local_path(destination)
    _check_destination(final, overwrite)
    source, count = _open_sources(sources, axes)
    scale, voxel_source = _scale(source, voxel_um)
    names = _channel_names(source, channels)
    optics = source.optics
    with disk_full_reported(final), _beside(final) as partial:
        windows = _write_array(source, partial, scale, format, on_plane)
        write_image_group(
            partial,
            name=final.name.split(".")[0],
            levels={"0": scale},
            format=format,
            axes=source.axes,
            channels=[Channel(name, window) for name, window in zip(names, windows, strict=True)],
            optics=optics,
        )
        _check_destination(final, overwrite)
        _replace(partial, final)
    return ImportReport(
        destination=final,
        files=count,
        axes=source.axes,
        shape=source.shape,
        dtype=source.dtype.name,
        voxel_um=scale.voxel_um,
        voxel_source=voxel_source,
        channels=tuple(names),
        optics=optics,
    )


def _scale(source: _Source, voxel_um: Sequence[float] | None) -> tuple[Scale, str]:
    if voxel_um is not None:
        return Scale(micrometer_triple(voxel_um)), "as given"
    if source.voxel_um is None:
        raise InputError(f"{source.name}: {source.voxel_source}", "Add --voxel-um Z Y X, in micrometers")
    return Scale(source.voxel_um), source.voxel_source


def _channel_names(source: _Source, given: Sequence[str] | None) -> list[str]:
    if given is not None and len(given) != len(source.channels):
        raise UsageError(
            f"{len(given)} channel names for the {len(source.channels)} channels of {source.name}", "Name each channel"
        )
    return [name or f"channel_{i}" for i, name in enumerate(given or source.channels)]


def _check_destination(final: Path, overwrite: bool) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"{final} exists and is not empty", "Choose another destination, or add --overwrite")
    if not any((final / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        raise UsageError(f"{final} holds something that is not a zarr image", "Choose another destination")


@contextmanager
def _beside(final: Path) -> Iterator[Path]:
    """A locked, empty folder beside `final`; what an import that was killed left in it is removed."""
    partial = final.with_name(f".{final.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    folder = os.open(partial, os.O_RDONLY)
    try:
        _lock(folder, partial, final)
        for entry in partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(folder)


def _lock(folder: int, partial: Path, final: Path) -> None:
    """Hold the folder until its descriptor closes; the system lets go of it when the process dies."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(folder).st_ino == partial.stat().st_ino:
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise OutputInUseError(f"{final} is being written by another import", "Wait for it, or choose another destination")


def _replace(partial: Path, final: Path) -> None:
    """Put the finished folder in its place, and remove what was there."""
    if not final.exists():
        partial.rename(final)
        return
    old = final.with_name(f".{final.name}.old-{os.getpid()}")
    final.rename(old)
    partial.rename(final)
    shutil.rmtree(old)


def _open_sources(sources: str | Path | Sequence[str | Path], axes: str | None) -> tuple[_Source, int]:
    """The planes to import, and how many files they come from."""
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    paths = [path for source in listed for path in _files_of(local_path(source))]
    if not paths:
        raise UsageError("no file to import", "Name at least one TIFF")
    if len(paths) == 1:
        return _ZarrArray(paths[0], axes) if paths[0].is_dir() else read_tiff(paths[0], axes=axes), 1
    return _Stack(sorted(paths, key=_natural), axes), len(paths)


def _files_of(path: Path) -> list[Path]:
    """The path itself, or the TIFFs of a folder."""
    if not path.exists():
        raise InputNotFoundError(f"{path} does not exist", "Check the path")
    kind = zarr_kind(path) if path.is_dir() else None
    if kind == "group":
        raise InputError(f"{path} is a zarr group", "An OME-Zarr image needs no import; of other groups give one array")
    if path.is_file() or kind == "array":
        return [path]
    found = [entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")]
    if not found:
        raise InputError(f"{path} is a folder without .tif or .tiff files", "Give the folder of one z stack")
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order that puts plane_2 before plane_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


class _Stack:
    """Single-plane files as the planes of a z stack, opened one at a time."""

    def __init__(self, paths: Sequence[Path], axes: str | None) -> None:
        self._paths = paths
        self._axes = None if axes is None else axes.lower().replace("z", "")
        first = self._image(0)
        self.axes, self.dtype, self.channels, self.optics = first.axes, first.dtype, first.channels, first.optics
        for number in range(len(paths)):
            self._check(self._image(number), first.shape)
        self.name = str(paths[0].parent)
        self.shape = (*first.shape[:-3], len(paths), *first.shape[-2:])
        self.voxel_um: MicrometerTriple | None = None
        self.voxel_source = "single planes state no z spacing"

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        for offset in range(len(out)):
            self._image(z + offset).fill(out[offset : offset + 1], c=c, t=t)

    def _image(self, number: int) -> TiffImage:
        return read_tiff(self._paths[number], axes=self._axes)

    def _check(self, image: TiffImage, plane_shape: tuple[int, ...]) -> None:
        if image.shape[-3] != 1:
            raise InputError(
                f"{image.name} holds {image.shape[-3]} planes, and {len(self._paths)} files were given",
                "Import files with several planes one at a time",
            )
        if (image.shape, image.axes, image.dtype) != (plane_shape, self.axes, self.dtype):
            raise InputError(
                f"{image.name} has shape {image.shape} and type {image.dtype}, {self._paths[0]} has {plane_shape} and"
                f" {self.dtype}",
                "Import the files of one stack at a time",
            )


class _ZarrArray:
    """An array without OME metadata."""

    def __init__(self, path: Path, axes: str | None) -> None:
        volume = open_array(path, Scale((1.0, 1.0, 1.0)), axes=axes.lower() if axes else None, read_only=True)
        lengths = dict(zip(volume.axes, volume.array.shape, strict=True))
        self._volume = volume
        self.name = str(path)
        self.axes = "".join(letter for letter in "tc" if letter in lengths) + "zyx"
        self.shape = tuple(lengths.get(letter, 1) for letter in self.axes)
        self.dtype = np.dtype(np.uint8) if volume.dtype.kind == "b" else volume.dtype
        self.voxel_um: MicrometerTriple | None = None
        self.voxel_source = "a zarr array without OME metadata states no voxel size"
        self.channels = ("",) * lengths.get("c", 1)
        self.optics: tuple[Optics, ...] = ({},) * len(self.channels)

    def fill(self, out: NDArray[Any], *, z: int = 0, c: int = 0, t: int = 0) -> None:
        """Read planes from `z` on into `out`, shape (planes, Y, X)."""
        at = tuple({"c": c, "t": t}[letter] for letter in self._volume.axes if letter in "tc")
        _, y, x = self._volume.shape
        out[...] = replace(self._volume, at=at).read(Box((z, 0, 0), (z + len(out), y, x)))


def _write_array(
    source: _Source, folder: Path, scale: Scale, format: Format, on_plane: Callable[[int, int], None] | None
) -> list[tuple[float, float]]:
    """Write every voxel, and return the smallest and largest value of each channel."""
    lengths = dict(zip(source.axes, source.shape, strict=True))
    shape = triple(source.shape[-3:])
    layout = layout_for_core((LONGEST_SHARD,) * 3, shape, source.dtype, ZARR_FORMAT[format])
    layout = replace(layout, leading=source.shape[:-3])
    volume = create_array(folder / "0", layout, scale, axes=source.axes)
    windows: list[tuple[float, float]] = []
    done, planes = 0, prod(source.shape[:-2])
    with _slab((min(layout.write_unit[0], shape[0]), *shape[1:]), source.dtype, folder) as slab:
        for c in range(lengths.get("c", 1)):
            ranges = []
            for t in range(lengths.get("t", 1)):
                at = tuple({"t": t, "c": c}[letter] for letter in source.axes if letter in "tc")
                for box in _slabs(shape, len(slab)):
                    part = slab[: box.shape[0]]
                    source.fill(part, z=box.start[0], c=c, t=t)
                    replace(volume, at=at).write(box, part)
                    ranges.append(_value_range(part))
                    done += len(part)
                    if on_plane is not None:
                        on_plane(done, planes)
            windows.append(_window(ranges))
    return windows


def _slabs(shape: Triple, depth: int) -> Iterator[Box]:
    for z in range(0, shape[0], depth):
        yield Box((z, 0, 0), (min(z + depth, shape[0]), *shape[1:]))


@contextmanager
def _slab(shape: Triple, dtype: np.dtype[Any], folder: Path) -> Iterator[NDArray[Any]]:
    """Room for planes: memory, or a temporary file in `folder` where that would be too much."""
    if prod(shape) * dtype.itemsize <= _LARGEST_SLAB:
        yield np.empty(shape, dtype)
        return
    path = folder / "slab"
    try:
        yield np.memmap(path, dtype, "w+", shape=shape)
    finally:
        path.unlink(missing_ok=True)


def _value_range(values: NDArray[Any]) -> tuple[float, float] | None:
    """Smallest and largest finite value; None where there is none."""
    low, high = values.min().item(), values.max().item()
    if isfinite(low) and isfinite(high):
        return low, high
    finite = values[np.isfinite(values)]
    return (finite.min().item(), finite.max().item()) if finite.size else None


def _window(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    """What a viewer shows as black and full colour, never the same value."""
    known = [found for found in ranges if found is not None] or [(0, 1)]
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return (low, high) if high > low else (low, low + 1)
